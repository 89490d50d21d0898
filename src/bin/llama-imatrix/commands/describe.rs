//! The commands and their options as data, for completions and the manual page.

use clap::{Arg, CommandFactory as _};

use crate::args::{Command, CommandOption};

/// Returns all commands.
pub(crate) fn all() -> Vec<Command> {
    let mut commands = super::Commands::command();
    commands.build();
    let described = |&(name, what): &(&'static str, &'static str)| {
        let options = commands.find_subcommand(name).map(|command| command.get_opts().map(option).collect());
        Command { name, what, options: options.unwrap_or_default() }
    };
    super::NAMES.iter().map(described).collect()
}

fn option(arg: &Arg) -> CommandOption {
    let takes_value = arg.get_action().takes_values();
    let values = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string);
    let choices = arg.get_possible_values().into_iter().map(|choice| choice.get_name().to_owned());
    let defaults: Vec<_> = arg.get_default_values().iter().filter_map(|value| value.to_str()).collect();
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if takes_value && !defaults.is_empty() {
        help = format!("{help} [default: {}]", defaults.join(","));
    }
    CommandOption {
        names: (arg.get_short().map(|short| format!("-{short}")).into_iter())
            .chain(arg.get_long().map(|long| format!("--{long}")))
            .collect(),
        value: if takes_value { values.collect::<Vec<_>>().join(" ") } else { String::new() },
        help,
        choices: if takes_value { choices.collect() } else { Vec::new() },
    }
}
