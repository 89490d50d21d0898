//! The command line: llama.cpp's flags, one to one, under its names.
//!
//! [`table`] says what a flag is, the files of each topic list them, and from those lists come the parser, the help,
//! the completions and `docs/flags.md`. [`Flags`] holds what was given; `config` makes it ready.
//!
//! The parser is our own: llama.cpp's flags have several letters after one dash, take the next word as their value
//! whatever it looks like, and of `-f`, `-bf` and `-p` it depends on the order which are the text.

mod bits;
pub(crate) mod choices;
mod command;
mod common;
mod complete;
mod config_file;
mod context;
mod cpu;
mod csv;
#[cfg(test)]
mod docs;
mod fingerprint;
mod groups;
mod help;
mod imatrix;
mod lens;
mod log;
mod lowargs;
mod man;
mod model;
mod parse;
mod parsed;
mod safety;
mod sampling;
mod speculative;
mod suggest;
mod table;
mod value;

use std::ffi::OsString;

pub(crate) use command::{Command, CommandOption, Operands};
#[cfg(feature = "llama")]
pub(crate) use fingerprint::deciding;
#[cfg(feature = "download")]
pub(crate) use lowargs::Remote;
#[cfg(feature = "llama")]
pub(crate) use lowargs::Tristate;
pub(crate) use lowargs::{Cpu, Flags, Text, Ubatch};
pub(crate) use parsed::Parsed;
pub(crate) use suggest::{Refused, near_commands};
pub(crate) use table::{Shell, Special};

/// Parses configuration files, the environment and the command line (the program's name first), each over the one before.
///
/// # Errors
/// What is wrong.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Refused> {
    let env = |name: &str| std::env::var_os(name);
    parse::parse(args.into_iter().skip(1), &env, &config_file::places(&env))
}

/// The help text: all flags.
pub(crate) fn help(commands: &[Command]) -> String {
    help::full(commands)
}

/// The help text of one screen: the commands, and the flags used most.
pub(crate) fn short_help(commands: &[Command]) -> String {
    help::short(commands)
}

/// The help of one flag, by any of its names, with or without its dashes.
pub(crate) fn flag_help(name: &str) -> Option<String> {
    let spellings = [name.to_owned(), format!("--{name}"), format!("-{name}")];
    let (flag, _) = spellings.iter().find_map(|name| parse::find(name))?;
    Some(help::one(flag) + "\n")
}

/// The script for a shell.
pub(crate) fn completions(shell: Shell, commands: &[Command]) -> String {
    match shell {
        Shell::Bash => complete::bash(commands),
        Shell::Zsh => complete::zsh(commands),
        Shell::Fish => complete::fish(commands),
    }
}

/// The longest name of each flag that acts and takes a file, and how its value is shown.
#[cfg(test)]
pub(crate) fn names_of_flags_with_files() -> impl Iterator<Item = (&'static str, &'static str)> {
    let acts = |flag: &&table::Flag| !matches!(flag.effect, table::Effect::Ignored(_)) && flag.takes_file();
    groups::flags().filter(acts).map(|flag| (flag.long_name(), flag.value))
}

/// The manual page, in roff.
pub(crate) fn man(commands: &[Command]) -> String {
    man::page(commands)
}

/// `docs/flags.md`.
#[cfg(test)]
pub(crate) fn markdown() -> String {
    docs::markdown()
}
