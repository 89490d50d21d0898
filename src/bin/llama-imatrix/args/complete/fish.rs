use std::fmt::Write as _;

use super::super::command::{Command, Operands};
use super::super::groups::flags;

/// No command has been given: a flag of the program's own is next.
const NO_COMMAND: &str = "not __fish_seen_subcommand_from";

pub(in super::super) fn script(commands: &[Command]) -> String {
    let words = commands.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let mut text = String::from("complete -c llama-imatrix -f\n");
    for command in commands {
        let _ = writeln!(
            text,
            "complete -c llama-imatrix -n __fish_use_subcommand -a {} -d {}",
            command.name,
            quoted(command.what)
        );
    }
    for command in commands {
        let seen = format!("__fish_seen_subcommand_from {}", command.name);
        for option in &command.options {
            let names = option.names.iter().map(String::as_str);
            let files = option.takes_file();
            text += &line(&seen, names, !option.value.is_empty(), &option.choices.join(" "), files, &option.help);
        }
        let _ = match &command.operands {
            Operands::Files => writeln!(text, "complete -c llama-imatrix -n {} -F", quoted(&seen)),
            Operands::Words(words) => {
                writeln!(text, "complete -c llama-imatrix -n {} -a {}", quoted(&seen), quoted(&words.join(" ")))
            }
            Operands::Nothing => Ok(()),
        };
    }
    let no_command = format!("{NO_COMMAND} {words}");
    for flag in flags() {
        let words = flag.choices().join(" ");
        let takes_value = !flag.value.is_empty();
        text += &line(&no_command, flag.spellings(), takes_value, &words, flag.takes_file(), flag.help);
    }
    text
}

fn line<'n>(
    condition: &str,
    names: impl Iterator<Item = &'n str>,
    takes_value: bool,
    words: &str,
    files: bool,
    help: &str,
) -> String {
    let mut text = format!("complete -c llama-imatrix -n {}", quoted(condition));
    for name in names {
        // fish tells apart -x, -several and --long.
        let (kind, name) = match (name.strip_prefix("--"), name.strip_prefix('-')) {
            (Some(long), _) => ("-l", long),
            (None, Some(short)) if short.chars().count() == 1 => ("-s", short),
            (None, old) => ("-o", old.unwrap_or(name)),
        };
        let _ = write!(text, " {kind} {name}");
    }
    if takes_value {
        text += " -r";
    }
    match (words.is_empty(), files) {
        (false, _) => {
            let _ = write!(text, " -f -a {}", quoted(words));
        }
        (true, true) => text += " -F",
        (true, false) if takes_value => text += " -f",
        (true, false) => {}
    }
    let _ = writeln!(text, " -d {}", quoted(help));
    text
}

/// Within single quotes fish reads `\\` and `\'`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}
