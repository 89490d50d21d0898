//! `llama-imatrix`: collects importance matrices, merges them and shows what is in them.
//!
//! Called with the flags of llama.cpp's tool of this name, it behaves as that tool does.
#![cfg_attr(not(feature = "llama"), allow(dead_code, unused_imports, reason = "what a run alone uses"))]

mod args;
mod commands;
mod config;
mod download;
#[cfg(test)]
mod generated;
mod offline;
mod run;
mod ui;

use std::process::ExitCode;

use args::{Flags, Special};
use config::hints::explained;
use config::overlap::Files;
use config::{Config, Task};
use offline::{combine, show_statistics};
use ui::print::print_document;
use ui::{log, progress};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = commands::run(&args) {
        return code;
    }
    let parsed = match args::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(refused) => {
            log::raw(format_args!("{}\n", refused.message(&commands::all())));
            return ExitCode::FAILURE;
        }
    };
    // The log's file is emptied: not before it is known to be none that is read.
    let refused = if parsed.special.is_none() { Files::refuse_log(&parsed.flags) } else { Ok(()) };
    let result = refused.and_then(|()| log::init(&parsed.flags.log, parsed.flags.verbosity)).and_then(|()| {
        for warning in &parsed.warnings {
            log::warn(format_args!("{warning}"));
        }
        match parsed.special {
            Some(special) => instead_of_a_run(special, &parsed.flags).map(|()| ExitCode::SUCCESS),
            None => Config::new(parsed.flags).and_then(do_task),
        }
    });
    let code = result.unwrap_or_else(|error| {
        progress::finish();
        log::error(format_args!("{}", explained(&error)));
        ExitCode::FAILURE
    });
    log::exit_code(code)
}

fn instead_of_a_run(special: Special, flags: &Flags) -> anyhow::Result<()> {
    match special {
        Special::Help => print_document(&args::help(&commands::all())),
        Special::ShortHelp => print_document(&args::short_help(&commands::all())),
        Special::Completion(shell) => print_document(&args::completions(shell, &commands::all())),
        Special::Man => print_document(&args::man(&commands::all())),
        Special::Version => print_document(&run::version()),
        Special::CacheList => print_document(&download::cached_models()),
        Special::ListDevices => print_document(&run::devices(flags)?),
    }
}

fn do_task(config: Config) -> anyhow::Result<ExitCode> {
    match config.task {
        Task::ShowStatistics(task) => show_statistics::show_statistics(&task).map(|()| ExitCode::SUCCESS),
        Task::Merge(task) => combine::combine(&task).map(|()| ExitCode::SUCCESS),
        Task::Collect(task) => run::collect(*task),
    }
}
