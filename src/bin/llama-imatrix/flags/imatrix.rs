//! The matrix: what it is made from, where it goes, what it holds.

use super::lowargs::{OutputFormat, Text};
use super::table::{Flag, Set};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        &["-f", "--file"],
        "FNAME",
        "The calibration text. Of several texts the last counts",
        Set::Raw(|flags, value| {
            flags.text = Some(Text::File(value.into()));
            flags.dataset = Some(value.into());
            Ok(())
        }),
    ),
    Flag::new(
        &["-bf", "--binary-file"],
        "FNAME",
        "The calibration text, to the last byte: -f drops a line end at its end",
        Set::Raw(|flags, value| {
            flags.text = Some(Text::Binary(value.into()));
            flags.dataset = Some(value.into());
            Ok(())
        }),
    ),
    Flag::new(
        &["-p", "--prompt"],
        "PROMPT",
        "The calibration text itself",
        Set::Raw(|flags, value| {
            flags.text = Some(Text::Prompt(value.into()));
            Ok(())
        }),
    ),
    Flag::toggle(
        &["-e", "--escape"],
        &["--no-escape"],
        "Read \\n, \\r, \\t, \\', \\\", \\\\ and \\xHH in the text as the characters they stand for",
        |flags, on| flags.escape = on,
    ),
    Flag::new(
        &["-o", "--output", "--output-file"],
        "FNAME",
        "Where the matrix goes (imatrix.gguf)",
        Set::Raw(|flags, value| {
            flags.output = value.into();
            Ok(())
        }),
    ),
    Flag::new(
        &["--output-format"],
        "FORMAT",
        "The format it is written in; dat is that of older versions (gguf)",
        Set::Choice(&["gguf", "dat"], |flags, format| {
            flags.output_format = Some(if format == "dat" { OutputFormat::Dat } else { OutputFormat::Gguf });
        }),
    ),
    Flag::int(&["-ofreq", "--output-frequency"], "Write the matrix every N chunks (10)", |flags, n| {
        flags.output_frequency = n;
        Ok(())
    }),
    Flag::int(&["--save-frequency"], "Also write a copy named FNAME.at_N every N chunks (0, none)", |flags, n| {
        flags.save_frequency = n;
        Ok(())
    }),
    Flag::new(
        &["--in-file"],
        "FNAME",
        "A matrix to go on from, or to merge; repeat it, or separate files by commas",
        Set::Text(|flags, value| {
            if value.is_empty() {
                return Err("it names no file".to_owned());
            }
            flags.in_file.extend(super::model::split_csv(value));
            Ok(())
        }),
    ),
    Flag::int(
        &["--legacy-chunk-size"],
        "Tokens a chunk had in runs that .dat files came from (512; in a merge --ctx-size)",
        |flags, n| {
            flags.legacy_chunk_size = Some(n);
            Ok(())
        },
    )
    .ours(),
    Flag::switch(&["--show-statistics"], "Show the statistics of the matrix given by --in-file, and exit", |flags| {
        flags.show_statistics = true;
    }),
    Flag::int(&["--chunk", "--from-chunk"], "Begin with chunk N (0)", |flags, n| {
        flags.chunk = n;
        Ok(())
    }),
    Flag::int(&["--chunks"], "Process at most N chunks (-1, all)", |flags, n| {
        flags.chunks = n;
        Ok(())
    }),
    Flag::toggle(&["--ppl"], &["--no-ppl"], "Compute perplexity (yes)", |flags, on| flags.no_ppl = !on),
    Flag::switch(&["--process-output"], "Also collect for the output matrix", |flags| flags.process_output = true),
    Flag::switch(&["--nextn"], "Also collect for the layers that predict further tokens (MTP, NextN)", |flags| {
        flags.nextn = true;
    }),
    Flag::switch(
        &["--parse-special"],
        "Read special tokens written out in the text, such as <|im_start|>, as themselves",
        |flags| flags.parse_special = true,
    ),
    Flag::switch(&["--keep-tail"], "Also process what is left of the text after the last whole chunk", |flags| {
        flags.keep_tail = true;
    })
    .ours(),
    Flag::int(&["--min-rows"], "Collect inputs of at least N rows; experts' inputs always are (16)", |flags, n| {
        flags.min_rows = u32::try_from(n).map_err(|_| format!("{n} is below 0"))?;
        Ok(())
    })
    .ours(),
    Flag::new(
        &["--lanes"],
        "N|auto",
        "Evaluate N batches side by side, each with its share of the threads (auto)",
        Set::Text(|flags, value| {
            flags.lanes = match value {
                "auto" => None,
                n => Some(n.parse().ok().filter(|&n| n > 0).ok_or("expected auto or a number from 1 on")?),
            };
            Ok(())
        }),
    )
    .ours(),
];
