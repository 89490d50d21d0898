//! Commands: a word in first place, where llama.cpp's tool takes only flags. They load no model and start no backend.

mod merge;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::flags::LogOptions;
use crate::log;

#[derive(Debug, Parser)]
#[command(name = "llama-imatrix", disable_help_subcommand = true)]
struct Commands {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts the states of shards together, or adds up matrices.
    Merge(merge::Merge),
}

/// The commands' names and what they do, for the help.
pub(crate) const NAMES: [(&str, &str); 1] =
    [("merge", "put the states of shards together, or add up matrices, with weights")];

/// Runs the command that the arguments (without the program's name) begin with; `None` if they begin with none.
pub(crate) fn run(args: &[OsString]) -> Option<ExitCode> {
    let word = args.first()?.to_str()?;
    NAMES.iter().find(|(name, _)| *name == word)?;
    let program = OsString::from("llama-imatrix");
    let parsed = match Commands::try_parse_from([program].iter().chain(args)) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help goes to standard output and is no failure; the exit code is 0 or 1, as everywhere here.
            let _ = error.print();
            return Some(if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    };
    let result = log::init(&LogOptions::default(), log::level::INFO).and_then(|()| match parsed.command {
        Command::Merge(args) => merge::run(&args).map(|()| ExitCode::SUCCESS),
    });
    Some(result.unwrap_or_else(|error| {
        log::error(format_args!("{error:#}"));
        ExitCode::FAILURE
    }))
}
