//! `docs/flags.md`, from the table.

use std::fmt::Write as _;

use super::groups::{GROUPS, flags};
use super::table::{Effect, Flag};

const INTRO: &str = "\
# Flags

All flags of llama.cpp 0.6.0's `llama-imatrix`, under all their names, and our own. Made from the program's table:
`UPDATE_FLAGS_MD=1 cargo test --release current` writes this file, the manual page and the completions (`assets/`) again
after a change, and tests compare them.
Another test holds the table against the options of upstream's program (`tests/data/flags/upstream-options.txt`).

Long flags take `_` for `-`, and `--flag=value` as well as `--flag value`. Environment variables count where a flag is
not given; for a flag that can be negated, `LLAMA_ARG_NO_X` stands for the negation of `LLAMA_ARG_X`. Numbers must be
numbers to their last letter, where upstream reads `12x` as 12. Of a flag given twice the last counts, with a warning,
unless values add up (`-f`, `--in-file`, `--lora`, `--override-kv`, `-ot`, `--rpc` and the like).

Where flags differ from upstream's:

- Threads for batches take from `--cpu-mask`, `--cpu-strict`, `--prio` and `--poll` what their own flags leave open;
  upstream ignores those of their own unless `-tb` is given too.
- The log's lines begin with words (`warning:`); upstream's letters and times are there with `--log-prefix` and
  `--log-timestamps`.
- `--version` goes to standard output.
- An RPC server that does not answer is an error, not the end of the process.
- The order of `--rpc`, `-dev` and `-ot` does not matter.
- `config.ini` files (`/etc/llama.cpp`, `~/.config/llama.cpp`) are read before all else, as upstream has it; there a
  switch set to `off` stays off.

";

/// The page.
pub(super) fn markdown() -> String {
    let count = |wanted: fn(Effect) -> bool| flags().filter(|flag| wanted(flag.effect)).count();
    let mut text = INTRO.to_owned();
    let _ = writeln!(
        text,
        "{} flags of upstream's act, {} are ignored since they cannot matter; {} are our own.",
        count(|effect| effect == Effect::Acts),
        count(|effect| matches!(effect, Effect::Ignored(_))),
        count(|effect| effect == Effect::Ours),
    );
    for group in GROUPS {
        let _ = write!(text, "\n## {}\n\n| flag | variable | what it does |\n|---|---|---|\n", group.title);
        for flag in group.flags {
            let _ = writeln!(text, "{}", row(flag));
        }
    }
    text
}

fn row(flag: &Flag) -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let mut names = flag.spellings().map(code).collect::<Vec<_>>().join(" ");
    if !flag.value.is_empty() {
        names = format!("{names} {}", flag.value.replace('|', "\\|"));
    }
    let env = if flag.env.is_empty() { String::new() } else { code(flag.env) };
    let mut what = flag.help.replace('|', "\\|").replace('<', "\\<");
    let choices: Vec<_> = flag.choices().iter().map(|choice| code(choice)).collect();
    if !choices.is_empty() {
        let _ = write!(what, ": {}", choices.join(", "));
    }
    match flag.effect {
        Effect::Acts => {}
        Effect::Ours => what += ". **Ours**",
        Effect::Ignored(why) => {
            let _ = write!(what, ". **Ignored**: {why}");
        }
    }
    format!("| {names} | {env} | {what} |")
}
