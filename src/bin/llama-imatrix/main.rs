//! `llama-imatrix`: collects importance matrices, merges them and shows what is in them.
//!
//! Called with the flags of llama.cpp's tool of this name, it behaves as that tool does.

mod collect;
mod config;
mod files;
mod flags;
mod log;
#[cfg(feature = "llama")]
mod nextn;
mod output;
mod progress;

use std::process::ExitCode;

use config::{Config, Task};

fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(exit) => return exit.report(),
    };
    log::set_verbosity(flags.verbosity);
    match Config::new(flags).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::finish();
            log::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    match config.task {
        Task::ShowStatistics(task) => files::show_statistics(&task),
        Task::Merge(task) => files::merge(&task),
        Task::Collect(task) => collect::collect(&task),
    }
}
