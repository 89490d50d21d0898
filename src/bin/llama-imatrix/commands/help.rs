//! `help [COMMAND|FLAG]`.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{flag_help, near_commands, short_help};
use crate::ui::log;
use crate::ui::print::print_document;

pub(super) const NAME: &str = "help";

/// Prints the help of a command or of a flag; without a word, what `-h` prints.
pub(super) fn run(args: &[OsString]) -> ExitCode {
    let Some(word) = args.first() else { return document(&short_help(&super::all())) };
    let name = word.to_string_lossy();
    if name != NAME && super::NAMES.iter().any(|(command, _)| *command == name) {
        return super::run_command(&[word.clone(), "--help".into()]);
    }
    if let Some(text) = flag_help(&name) {
        return document(&text);
    }
    let near = near_commands(&name, &super::all());
    let hint = if near.is_empty() {
        let names: Vec<_> = super::NAMES.iter().map(|(name, _)| *name).collect();
        format!("commands are {}; --help lists all flags", names.join(", "))
    } else {
        format!("did you mean `llama-imatrix help {}`?", near.join("` or `llama-imatrix help "))
    };
    log::raw(format_args!("error: there is no command or flag '{name}'\nhint: {hint}\n"));
    ExitCode::FAILURE
}

fn document(text: &str) -> ExitCode {
    match print_document(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::raw(format_args!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}
