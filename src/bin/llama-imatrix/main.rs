//! `llama-imatrix`: collects importance matrices, merges them and shows what is in them.
//!
//! Called with the flags of llama.cpp's tool of this name, it behaves as that tool does.
#![cfg_attr(not(feature = "llama"), allow(dead_code, unused_imports, reason = "what a run alone uses"))]

mod collect;
mod commands;
mod config;
#[cfg(feature = "llama")]
mod disk;
#[cfg(feature = "download")]
mod download;
#[cfg(feature = "llama")]
mod dry_run;
mod files;
mod flags;
#[cfg(feature = "llama")]
mod in_files;
mod info;
#[cfg(feature = "llama")]
mod last_saves;
#[cfg(feature = "llama")]
mod lens;
#[cfg(feature = "llama")]
mod lock;
mod log;
#[cfg(feature = "llama")]
mod lost;
#[cfg(feature = "llama")]
mod nextn;
mod output;
mod overlap;
mod progress;
mod replaceable;
#[cfg(feature = "llama")]
mod session;
#[cfg(feature = "llama")]
mod settings;
#[cfg(feature = "llama")]
mod signals;
#[cfg(feature = "llama")]
mod state_file;
#[cfg(feature = "llama")]
mod text;

use std::process::ExitCode;

use config::{Config, Task};
use flags::{Flags, Special};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = commands::run(&args) {
        return code;
    }
    let parsed = match flags::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(message) => {
            log::raw(format_args!("{message}\n"));
            return ExitCode::FAILURE;
        }
    };
    // The log's file is emptied: not before it is known to be none that is read.
    let refused = if parsed.special.is_none() { overlap::Files::refuse_log(&parsed.flags) } else { Ok(()) };
    let result = refused.and_then(|()| log::init(&parsed.flags.log, parsed.flags.verbosity)).and_then(|()| {
        for warning in &parsed.warnings {
            log::warn(format_args!("{warning}"));
        }
        match parsed.special {
            Some(special) => instead_of_a_run(special, &parsed.flags).map(|()| ExitCode::SUCCESS),
            None => Config::new(parsed.flags).and_then(run),
        }
    });
    let code = result.unwrap_or_else(|error| {
        progress::finish();
        log::error(format_args!("{error:#}"));
        ExitCode::FAILURE
    });
    log::exit_code(code)
}

fn instead_of_a_run(special: Special, flags: &Flags) -> anyhow::Result<()> {
    match special {
        Special::Help => output::print_document(&flags::help()),
        Special::Completion(shell) => output::print_document(&flags::completions(shell)),
        Special::Man => output::print_document(&flags::man()),
        Special::Version => output::print_document(&info::version()),
        Special::CacheList => output::print_document(&info::cached_models()),
        Special::ListDevices => output::print_document(&info::devices(flags)?),
    }
}

fn run(config: Config) -> anyhow::Result<ExitCode> {
    match config.task {
        Task::ShowStatistics(task) => files::show_statistics(&task).map(|()| ExitCode::SUCCESS),
        Task::Merge(task) => files::merge(&task).map(|()| ExitCode::SUCCESS),
        Task::Collect(task) => collect::collect(&task),
    }
}
