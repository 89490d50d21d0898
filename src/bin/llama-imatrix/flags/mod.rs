//! The command line: llama.cpp's flags, one to one, under its names.
//!
//! [`table`] says what a flag is, the files of each topic list them, and from those lists come the parser, the help,
//! the completions and `docs/flags.md`. [`Flags`] holds what was given; `config` makes it ready.
//!
//! The parser is our own: llama.cpp's flags have several letters after one dash, take the next word as their value
//! whatever it looks like, and of `-f`, `-bf` and `-p` it depends on the order which are the text.

mod bits;
mod common;
mod complete;
mod config_file;
mod context;
mod cpu;
#[cfg(test)]
mod docs;
mod help;
mod imatrix;
mod lens;
mod log;
mod lowargs;
mod man;
mod model;
mod parse;
mod safety;
mod sampling;
mod speculative;
mod table;

use std::ffi::OsString;

#[cfg(feature = "llama")]
pub(crate) use bits::deciding;
#[cfg(feature = "download")]
pub(crate) use lowargs::Remote;
pub(crate) use lowargs::{Cpu, Flags, LogOptions, OutputFormat, Text, Tristate};
#[cfg(feature = "llama")]
pub(crate) use lowargs::{GpuLayers, KvOverride};
pub(crate) use table::{Shell, Special};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) flags: Flags,
    /// Asked for instead of a run.
    pub(crate) special: Option<Special>,
    /// To be logged once the log is set up.
    pub(crate) warnings: Vec<String>,
}

/// Parses configuration files, the environment and the command line (the program's name first), each over the one before.
///
/// # Errors
/// What is wrong, ready to be printed.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let env = |name: &str| std::env::var_os(name);
    parse::parse(args.into_iter().skip(1), &env, &config_file::places(&env))
}

/// The help text.
pub(crate) fn help() -> String {
    help::full()
}

/// The script for a shell.
pub(crate) fn completions(shell: Shell) -> String {
    match shell {
        Shell::Bash => complete::bash(),
        Shell::Zsh => complete::zsh(),
        Shell::Fish => complete::fish(),
    }
}

/// The longest name of each flag that acts and takes a file, and how its value is shown.
#[cfg(test)]
pub(crate) fn names_of_flags_with_files() -> impl Iterator<Item = (&'static str, &'static str)> {
    let acts = |flag: &&table::Flag| !matches!(flag.effect, table::Effect::Ignored(_)) && flag.takes_file();
    table::flags().filter(acts).map(|flag| (flag.long_name(), flag.value))
}

/// The manual page, in roff.
pub(crate) fn man() -> String {
    man::page()
}
