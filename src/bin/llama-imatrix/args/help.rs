//! The help text, from the table.

use std::fmt::Write as _;

use super::command::Command;
use super::groups::GROUPS;
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
        let _ = write!(text, "\n{}:\n\n", group.title);
        for flag in group.flags {
            text += &one(flag);
            text.push('\n');
        }
    }
    text += "\nCommands, in first place; each has its own --help:\n\n";
    for Command { name, what, .. } in commands {
        let _ = writeln!(text, "{:COLUMN$}{what}", format!("  {name} FILE.."));
    }
    text
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
