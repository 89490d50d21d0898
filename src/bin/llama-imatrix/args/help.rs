//! The help text, from the table.

use std::fmt::Write as _;

use super::command::Command;
use super::groups::{GROUPS, flags};
use super::parse::find;
use super::table::{Effect, Flag};

/// Columns of a line.
const WIDTH: usize = 110;
/// Column where descriptions begin.
const COLUMN: usize = 34;

/// `--help`.
pub(super) fn full(commands: &[Command]) -> String {
    let mut text = String::from(
        "Collects an importance matrix: what the inputs of a model's weights look like over a calibration text.\n\
         llama-quantize reads it to decide where precision matters.\n\n\
         llama-imatrix -m MODEL -f TEXT [-o MATRIX] [FLAGS]\n\
         llama-imatrix --in-file MATRIX [--in-file MATRIX ..] -o MATRIX\n\
         llama-imatrix --show-statistics --in-file MATRIX\n\n\
         Flags may be given in any order; in long ones _ stands for - as well. What is in brackets is the default or\n\
         the environment variable. docs/flags.md describes each.\n",
    );
    for group in GROUPS {
        let shown: Vec<_> = group.flags.iter().filter(|flag| !has_no_effect(flag)).collect();
        if !shown.is_empty() {
            let _ = write!(text, "\n{}:\n\n", group.title);
        }
        for flag in shown {
            text += &one(flag);
            text.push('\n');
        }
    }
    text += "\nCommands, as the first argument; each has a --help:\n\n";
    text += &listed(commands, COLUMN);
    text += "\nAccepted as by llama.cpp's tools, without an effect:\n\n";
    text + &wrapped(flags().filter(|flag| has_no_effect(flag)).flat_map(Flag::spellings))
}

/// Flags used most, and what they do in one line.
const SHORT: [(&str, &str); 20] = [
    ("--model", "model, a GGUF file"),
    ("--file", "text: file, folder, .jsonl; repeat it for more"),
    ("--output", "matrix to write (imatrix.gguf)"),
    ("--ctx-size", "tokens per chunk (512)"),
    ("--chunks", "evaluate at most N chunks"),
    ("--tokens", "evaluate at most N tokens, as in 300K or 2M"),
    ("--documents", "evaluate each document separately"),
    ("--shuffle", "evaluate in a random order"),
    ("--keep-tail", "also evaluate the tokens after the last whole chunk"),
    ("--process-output", "also collect for the output matrix"),
    ("--no-ppl", "compute no perplexity: faster"),
    ("--in-file", "matrix to continue from, to merge or to show"),
    ("--show-statistics", "show the statistics of --in-file"),
    ("--resume", "continue an interrupted run"),
    ("--shard", "evaluate part I of N of the chunks"),
    ("--stop-when-covered", "stop when every expert has N tokens"),
    ("--dry-run", "show what a run would do"),
    ("--gpu-layers", "layers on GPUs (as many as fit)"),
    ("--threads", "CPU threads"),
    ("--rpc", "workers on other machines"),
];

/// Columns where descriptions begin in the short help: of flags, and of commands.
const SHORT_COLUMN: usize = 28;
const COMMAND_COLUMN: usize = 28;

/// `-h`.
pub(super) fn short(commands: &[Command]) -> String {
    let mut text = String::from(
        "Collects an importance matrix over a calibration text; llama-quantize reads it.\n\n\
         llama-imatrix -m MODEL -f TEXT [-o MATRIX] [FLAGS]\n\
         llama-imatrix COMMAND ..\n\nCommands, in first place:\n",
    );
    text += &listed(commands, COMMAND_COLUMN);
    text += "\nFlags used most:\n";
    for (name, what) in SHORT {
        let Some((flag, _)) = find(name) else { continue };
        let short = flag.names.iter().filter(|name| !name.starts_with("--")).min_by_key(|name| name.len());
        let head = short.into_iter().chain([&name]).copied().collect::<Vec<_>>().join(", ");
        let head = if flag.value.is_empty() { head } else { format!("{head} {}", flag.value) };
        let _ = writeln!(text, "{:SHORT_COLUMN$}{what}", format!("  {head} "));
    }
    text += "\n--help lists all flags, `llama-imatrix help COMMAND` those of a command.\n";
    text
}

fn listed(commands: &[Command], column: usize) -> String {
    let line =
        |Command { name, what, usage, .. }: &Command| format!("{:column$}{what}\n", format!("  {name} {usage} "));
    commands.iter().map(line).collect()
}

fn has_no_effect(flag: &Flag) -> bool {
    matches!(flag.effect, Effect::Ignored(_))
}

/// Words in lines.
fn wrapped<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let mut text = String::new();
    let mut line = String::from(" ");
    for word in words {
        if line.len() + 1 + word.len() > WIDTH {
            text += &line;
            text.push('\n');
            line = String::from(" ");
        }
        line.push(' ');
        line += word;
    }
    text + &line + "\n"
}

/// A flag's lines, without the last line end.
pub(super) fn one(flag: &Flag) -> String {
    let mut head = flag.spellings().collect::<Vec<_>>().join(", ");
    if !flag.value.is_empty() {
        head = format!("{head} {}", flag.value);
    }
    let mut words = flag.help.to_owned();
    let choices = flag.choices();
    if !choices.is_empty() {
        let _ = write!(words, " [{}]", choices.join("|"));
    }
    match flag.effect {
        Effect::Ignored(_) => words += " [ignored]",
        Effect::Acts | Effect::Ours => {}
    }
    if !flag.env.is_empty() {
        let _ = write!(words, " [{}]", flag.env);
    }
    let mut line = format!("  {head}");
    let mut text = String::new();
    if line.len() + 2 > COLUMN {
        text = format!("{line}\n");
        line.clear();
    }
    line = format!("{line:COLUMN$}");
    let mut room_used = false;
    for word in words.split(' ') {
        if room_used && line.len() + 1 + word.len() > WIDTH {
            text += &line;
            text.push('\n');
            line = " ".repeat(COLUMN);
            room_used = false;
        }
        if room_used {
            line.push(' ');
        }
        line += word;
        room_used = true;
    }
    text + &line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_help_is_one_screen_of_flags_that_exist() {
        let text = short(&[]);
        assert!(text.lines().count() <= 40 && text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(SHORT.iter().all(|(name, what)| text.contains(name) && text.contains(what)), "{text}");
    }

    #[test]
    fn flags_without_an_effect_are_folded_at_the_end() {
        let text = full(&[]);
        let (shown, folded) = text.rsplit_once("Accepted as by llama.cpp's tools, without an effect:").unwrap();
        assert!(folded.contains("--temp") && !shown.contains("--temp,") && folded.lines().count() < 30, "{folded}");
        assert!(shown.contains("--seed"), "it selects the order of --shuffle");
    }
}
