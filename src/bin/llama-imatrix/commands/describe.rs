//! The commands and their options as data, for completions and the manual page.

use clap::{Arg, CommandFactory as _};

/// A command.
pub(crate) struct Described {
    pub(crate) name: &'static str,
    /// What it does, in a few words.
    pub(crate) what: &'static str,
    pub(crate) options: Vec<CommandOption>,
}

/// An option of a command.
pub(crate) struct CommandOption {
    /// All spellings, with their dashes.
    pub(crate) names: Vec<String>,
    /// How its value is shown, empty where it takes none.
    pub(crate) value: String,
    pub(crate) help: String,
    /// The words it takes, if there are only so many.
    pub(crate) choices: Vec<String>,
}

pub(crate) fn all() -> Vec<Described> {
    let mut commands = super::Commands::command();
    commands.build();
    let described = |&(name, what): &(&'static str, &'static str)| {
        let options = commands.find_subcommand(name).map(|command| command.get_opts().map(option).collect());
        Described { name, what, options: options.unwrap_or_default() }
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
