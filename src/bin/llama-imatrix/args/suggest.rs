//! Words that are no flag: what was meant, most likely.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use llama_imatrix::gguf::{self, Kind};

use super::command::Command;
use super::groups::flags;
use super::table::Flag;

/// Most suggestions for one word.
const MOST: usize = 3;

/// A command line that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A word that is no flag, and whether it is the first one.
    Unknown(OsString, bool),
    /// A flag that is used wrongly: the message, ready to be printed.
    Invalid(String),
}

impl Refused {
    /// The message, ready to be printed. An unknown word may have been meant as one of `commands`.
    pub(crate) fn message(&self, commands: &[Command]) -> String {
        match self {
            Self::Invalid(message) => message.clone(),
            Self::Unknown(word, is_first) => {
                let shown = word.display();
                match word.to_str() {
                    Some(name) if name.starts_with('-') && name.len() > 1 => {
                        format!("error: invalid argument: {shown}\nhint: {}", flag_hint(name, commands))
                    }
                    name => {
                        let what = if *is_first && !Path::new(word).exists() { "command or flag" } else { "argument" };
                        let hint = word_hint(word, name.unwrap_or_default(), *is_first, commands);
                        format!("error: invalid {what}: {shown}\nhint: {hint}")
                    }
                }
            }
        }
    }
}

/// `llama-imatrix stats`, ready for `help`'s errors too.
pub(crate) fn near_commands(word: &str, commands: &[Command]) -> Vec<String> {
    let distances = commands.iter().map(|command| {
        let begins = word.len() >= 3 && command.name.starts_with(word);
        (if begins { 1 } else { distance(word, command.name) }, command.name.to_owned())
    });
    nearest(distances.filter(|(distance, name)| *distance <= 1 + name.len() / 5))
}

fn flag_hint(name: &str, commands: &[Command]) -> String {
    let bare = name.trim_start_matches('-');
    if let Some((flag, value)) = glued(name) {
        return format!("a value follows its flag after a space: {flag} {value}");
    }
    let allowed = |len: usize| match len {
        0..=2 => 0,
        3..=5 => 1,
        len => len / 3,
    };
    let spellings = flags().flat_map(Flag::spellings).map(|spelling| {
        let target = spelling.trim_start_matches('-');
        (distance(bare, target), spelling.to_owned())
    });
    let near = nearest(spellings.filter(|(distance, spelling)| {
        *distance <= allowed(bare.chars().count().min(spelling.trim_start_matches('-').len()))
    }));
    // A command written as a flag.
    let meant: Vec<String> =
        near_commands(bare, commands).iter().map(|name| format!("`llama-imatrix {name}`")).collect();
    match (&near[..], &meant[..]) {
        ([], []) => "-h lists the commands and the flags used most, --help all flags".to_owned(),
        ([], commands) => format!("did you mean the command {}?", commands.join(" or ")),
        (flags, []) => format!("did you mean {}?", flags.join(" or ")),
        (flags, commands) => format!("did you mean the command {}, or {}?", commands.join(" or "), flags.join(" or ")),
    }
}

/// `-c` and `512` of `-c512`.
fn glued(name: &str) -> Option<(&'static str, &str)> {
    let at = name.find(|c: char| c.is_ascii_digit()).filter(|&at| at > 1)?;
    let (flag, value) = name.split_at(at);
    let known = flags().filter(|flag| !flag.value.is_empty()).flat_map(Flag::spellings).find(|known| *known == flag)?;
    Some((known, value))
}

fn word_hint(word: &OsStr, name: &str, is_first: bool, commands: &[Command]) -> String {
    let path = Path::new(word);
    if path.is_file() {
        let shown = path.display();
        return match gguf::File::open(path).map(|file| Kind::of(&file)) {
            Ok(Kind::Imatrix) => {
                format!(
                    "it is an importance matrix: `llama-imatrix stats {shown}` shows it, --in-file {shown} reads it"
                )
            }
            Ok(Kind::State) => format!(
                "it is {}: --resume continues it, `llama-imatrix merge` makes a matrix of the states of all shards",
                Kind::State
            ),
            Ok(Kind::Model { .. }) => format!("-m names the model: llama-imatrix -m {shown} -f TEXT"),
            Ok(_) => "-m names a model, -f a text, --in-file a matrix".to_owned(),
            Err(_) => format!("-f names a text: -f {shown}; repeat it for each file"),
        };
    }
    if path.is_dir() {
        return format!("-f names a text, or a folder with texts: -f {}", path.display());
    }
    if is_first {
        let near = near_commands(name, commands);
        if !near.is_empty() {
            let near: Vec<String> = near.iter().map(|name| format!("`llama-imatrix {name}`")).collect();
            return format!("did you mean {}?", near.join(" or "));
        }
        let names: Vec<_> = commands.iter().map(|command| command.name).collect();
        return format!("commands are {}; -h shows them and the flags used most", names.join(", "));
    }
    if let Some(command) = commands.iter().find(|command| command.name == name) {
        return format!("a command is the first word: llama-imatrix {}", command.name);
    }
    "files are named by flags: -m MODEL, -f TEXT, --in-file MATRIX".to_owned()
}

/// The candidates at the smallest distance.
fn nearest(candidates: impl Iterator<Item = (usize, String)>) -> Vec<String> {
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort();
    let smallest = candidates.first().map_or(0, |(distance, _)| *distance);
    candidates.into_iter().take_while(|(distance, _)| *distance == smallest).map(|(_, name)| name).take(MOST).collect()
}

/// Letters to insert, delete, replace or swap with their neighbour to get from one word to the other (optimal string
/// alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut cost =
                (rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1])).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(rows[i - 2][j - 2] + 1);
            }
            row.push(cost);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::command::Operands;
    use super::*;

    fn commands() -> Vec<Command> {
        let command =
            |name| Command { name, what: "", usage: String::new(), operands: Operands::Files, options: Vec::new() };
        ["stats", "compare", "report", "merge", "worker", "help"].map(command).into()
    }

    #[test]
    fn distances_count_swapped_neighbours_once() {
        for (a, b, n) in [("modle", "model", 1), ("stat", "stats", 1), ("", "abc", 3), ("ca", "abc", 3), ("é", "e", 1)]
        {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
    }

    #[test]
    fn unknown_words_suggest_the_nearest_flag_or_command() {
        for (word, is_first, says) in [
            ("--modle", true, "error: invalid argument: --modle\nhint: did you mean --model?"),
            ("--ctx-siz", false, "did you mean --ctx-size?"),
            ("-output", false, "did you mean --output?"),
            ("--ngl", false, "did you mean -ngl?"),
            ("-oferq", false, "did you mean -ofreq?"),
            ("--stats", true, "did you mean the command `llama-imatrix stats`?"),
            ("-c512", false, "a value follows its flag after a space: -c 512"),
            ("--no-such-thing-at-all", false, "-h lists the commands"),
            ("stat", true, "error: invalid command or flag: stat\nhint: did you mean `llama-imatrix stats`?"),
            ("comapre", true, "did you mean `llama-imatrix compare`?"),
            ("rep", true, "did you mean `llama-imatrix report`?"),
            ("dance", true, "commands are stats, compare, report, merge, worker, help;"),
            ("stats", false, "a command is the first word: llama-imatrix stats"),
            ("none.txt", false, "error: invalid argument: none.txt\nhint: files are named by flags"),
        ] {
            let message = Refused::Unknown(word.into(), is_first).message(&commands());
            assert!(message.contains(says), "{word}: {message}");
        }
    }

    #[test]
    fn a_file_without_a_flag_suggests_the_flag() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart");
        for (file, says) in [("quickstart.gguf", "-m names the model"), ("README.md", "-f names a text")] {
            let message = Refused::Unknown(format!("{root}/{file}").into(), true).message(&commands());
            assert!(message.contains("error: invalid argument:") && message.contains(says), "{message}");
        }
    }
}
