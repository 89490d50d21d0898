//! Commands: a word in first place, where llama.cpp's tool takes only flags. They load no model and, but for the worker,
//! start no backend.

mod describe;
mod help;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::hints::explained;
use crate::offline::{check, compare, merge, recipe, report, stats};
use crate::run::{kld, sensitivity, worker};
use crate::ui::log::{self, LogOptions};
use crate::ui::print::unless_nobody_reads;

pub(crate) use describe::all;

#[derive(Debug, Parser)]
#[command(name = "llama-imatrix", disable_help_subcommand = true)]
struct Commands {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints statistics of matrices per weight and per layer.
    Stats(stats::Stats),
    /// Compares the channel weights of matrices.
    Compare(compare::Compare),
    /// Tells whether a matrix will do for a model.
    Check(check::Check),
    /// Draws matrices on an HTML page, or as pictures.
    Report(report::Report),
    /// Merges the states of shards, or adds up matrices.
    Merge(merge::Merge),
    /// Chooses a type per weight for llama-quantize, at a size.
    Recipe(recipe::RecipeArgs),
    /// Measures how much the error of each weight changes the model's predictions.
    Sensitivity(sensitivity::Sensitivity),
    /// Compares the predictions of quantized models with the original's.
    Kld(kld::Kld),
    /// Lends this machine's devices to a run elsewhere.
    Worker(worker::Worker),
}

/// Names of the commands and what they do, for the help.
const NAMES: [(&str, &str); 10] = [
    ("stats", "statistics as a table, JSON, CSV or Markdown"),
    ("compare", "compare the channel weights of matrices"),
    ("check", "tell if a matrix will do for a model and a type"),
    ("report", "draw matrices on an HTML page, or as pictures"),
    ("merge", "merge states of shards, or add up matrices"),
    ("recipe", "choose a type per weight for a file of a given size"),
    ("sensitivity", "measure what an error of each weight costs"),
    ("kld", "compare quantized models with the original"),
    ("worker", "lend this machine's devices to a run (--rpc)"),
    (help::NAME, "show the help of a command or of a flag"),
];

/// Runs the command that the arguments (without the program's name) begin with; `None` if they begin with none.
pub(crate) fn run(args: &[OsString]) -> Option<ExitCode> {
    let word = args.first()?.to_str()?;
    NAMES.iter().find(|(name, _)| *name == word)?;
    if word == help::NAME {
        return Some(help::run(&args[1..]));
    }
    Some(run_command(args))
}

/// Parses the options of a command, and runs it.
fn run_command(args: &[OsString]) -> ExitCode {
    let program = OsString::from("llama-imatrix");
    let parsed = match Commands::try_parse_from([program].iter().chain(args)) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help goes to standard output and is no failure; the exit code is 0 or 1, as everywhere here.
            let printed = unless_nobody_reads(error.print()).is_ok();
            return if error.use_stderr() || !printed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let result = log::init(&LogOptions::default(), log::level::INFO).and_then(|()| match parsed.command {
        Command::Stats(args) => stats::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Report(args) => report::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Merge(args) => merge::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Recipe(args) => recipe::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Sensitivity(args) => sensitivity::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Kld(args) => kld::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Worker(args) => worker::run(&args).map(|()| ExitCode::SUCCESS),
    });
    let code = result.unwrap_or_else(|error| {
        log::error(format_args!("{}", explained(&error)));
        ExitCode::FAILURE
    });
    log::exit_code(code)
}
