//! Flags of the log: its level, its place and its format.

use super::table::{Flag, Set};

pub(super) static FLAGS: &[Flag] = &[
    Flag::int(
        &["-lv", "--verbosity", "--log-verbosity"],
        "Log level: 0 output only, 1 errors, 2 warnings, 3 information, 4 more information, 5 everything (3)",
        |flags, n| {
            flags.verbosity = n;
            Ok(())
        },
    )
    .env("LLAMA_ARG_LOG_VERBOSITY")
    .same_bits(),
    Flag::switch(&["-v", "--verbose", "--log-verbose"], "Log everything", |flags| flags.verbosity = i32::MAX)
        .same_bits(),
    Flag::switch(
        &["--log-disable"],
        "Log nothing, and print no perplexities on standard output, which are part of llama.cpp's log",
        |flags| flags.log.disable = true,
    )
    .same_bits(),
    Flag::new(
        &["--log-file"],
        "FNAME",
        "Also write the log, with the perplexities, to a file",
        Set::Raw(|flags, value| {
            flags.log.file = Some(value.into());
            Ok(())
        }),
    )
    .env("LLAMA_ARG_LOG_FILE")
    .same_bits(),
    Flag::toggle(
        &["--log-jsonl"],
        &["--no-log-jsonl"],
        "Log to standard output, one JSON object per line (no)",
        |flags, on| flags.log.jsonl = on,
    )
    .env("LLAMA_ARG_LOG_JSONL")
    .same_bits(),
    Flag::new(
        &["--log-colors"],
        "WHEN",
        "Color the log: always, never, or on a terminal without NO_COLOR (auto)",
        Set::Tristate(|flags, when| flags.log.colors = when.forced()),
    )
    .env("LLAMA_ARG_LOG_COLORS")
    .same_bits(),
    Flag::toggle(
        &["--log-prefix"],
        &["--no-log-prefix"],
        "Begin lines with E, W, I or D instead of words (no)",
        |flags, on| flags.log.prefix = on,
    )
    .env("LLAMA_ARG_LOG_PREFIX")
    .same_bits(),
    Flag::toggle(
        &["--log-timestamps"],
        &["--no-log-timestamps"],
        "Begin lines with the time since the start (no)",
        |flags, on| flags.log.timestamps = on,
    )
    .env("LLAMA_ARG_LOG_TIMESTAMPS")
    .same_bits(),
];
