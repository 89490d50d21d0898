//! `docs/flags.md`, from the table.

use std::fmt::Write as _;

use super::groups::{GROUPS, flags};
use super::table::{Effect, Flag};

const INTRO: &str = "\
# Flags

All flags of llama.cpp 0.6.0's `llama-imatrix`, under all their names, and our own. Made from the program's table:
`UPDATE_FLAGS_MD=1 cargo test --release current` writes this file, the manual page and the completions (`assets/`) after a
change; tests fail if one is not current. Another test compares the table with the options of upstream's program
(`tests/data/flags/upstream-options.txt`).

Long flags accept `_` for `-`, and `--flag=value` as well as `--flag value`. An environment variable applies if its flag is
not given; `LLAMA_ARG_NO_X` is the negation of `LLAMA_ARG_X`, if the flag has one. A number followed by letters, such as
`12x`, is an error; upstream reads it as 12. If a flag is repeated, the last value counts, with a warning, unless the values
accumulate (`-f`, `--in-file`, `--lora`, `--override-kv`, `-ot`, `--rpc` and others).

Flags that differ from upstream's:

- `--cpu-mask`, `--cpu-strict`, `--prio` and `--poll` are the defaults of their `-batch` flags. Upstream ignores the `-batch`
  flags unless `-tb` is given too.
- Lines of the log begin with words (`warning:`). `--log-prefix` and `--log-timestamps` give upstream's letters and times.
- `--version` goes to standard output.
- An RPC server that does not answer is an error, not the end of the process.
- The order of `--rpc`, `-dev` and `-ot` does not matter.
- `config.ini` files (`/etc/llama.cpp`, `~/.config/llama.cpp`) are read first, as by upstream. A switch that is set to `off`
  there is off; upstream turns it on.

";

/// The page.
pub(super) fn markdown() -> String {
    let count = |wanted: fn(Effect) -> bool| flags().filter(|flag| wanted(flag.effect)).count();
    let mut text = INTRO.to_owned();
    let _ = writeln!(
        text,
        "{} flags of upstream have an effect, {} are ignored since they cannot have one; {} are our own.",
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
