//! The commands and their options as data, for the help, completions and the manual page.

use clap::{Arg, CommandFactory as _};
use llama_imatrix::report::statistics;

use super::help;
use crate::args::{Command, CommandOption, Operands};

/// Returns all commands.
pub(crate) fn all() -> Vec<Command> {
    let mut commands = super::Commands::command();
    commands.build();
    let described = |&(name, what): &(&'static str, &'static str)| {
        let Some(command) = commands.find_subcommand(name) else { return help_command(name, what) };
        let options: Vec<_> = command.get_arguments().filter(|arg| !arg.is_positional()).map(option).collect();
        let files: Vec<String> = command.get_positionals().map(operand).collect();
        let (usage, operands) = if files.is_empty() {
            ("[OPTIONS]".to_owned(), Operands::Nothing)
        } else {
            (files.join(" "), Operands::Files)
        };
        Command { name, what, usage, operands, options }
    };
    super::NAMES.iter().map(described).collect()
}

/// `help` is ours, not clap's: it also knows flags.
fn help_command(name: &'static str, what: &'static str) -> Command {
    let words = super::NAMES.iter().map(|(name, _)| *name).filter(|name| *name != help::NAME).collect();
    Command { name, what, usage: "[COMMAND]".to_owned(), operands: Operands::Words(words), options: Vec::new() }
}

/// `FILE..` if there may be several, which the program's own help writes so.
fn operand(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let several = arg.get_num_args().is_some_and(|range| range.max_values() > 1)
        || matches!(arg.get_action(), clap::ArgAction::Append);
    if several { format!("{names}..") } else { names }
}

fn option(arg: &Arg) -> CommandOption {
    let takes_value = arg.get_action().takes_values();
    let values = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string);
    let possible = arg.get_possible_values().into_iter().map(|choice| choice.get_name().to_owned());
    let choices: Vec<String> = match arg.get_id().as_str() {
        // Any name of a statistic, which clap does not check: the message lists them.
        "sort" | "columns" => statistics::tensors([]).headings.iter().map(|heading| heading.key.to_owned()).collect(),
        _ if takes_value => possible.collect(),
        _ => Vec::new(),
    };
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
        choices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Shell, completions, man};

    /// The part of `text` from `begin` up to `end`.
    fn part<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
        let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin}"));
        rest.split_once(end).map_or(rest, |(part, _)| part)
    }

    /// Against clap's model itself, not against what is made from it here.
    #[test]
    fn the_manual_page_and_all_completions_have_every_option_of_every_command() {
        let mut model = super::super::Commands::command();
        model.build();
        let (page, commands) = (man(&all()), all());
        let [bash, zsh, fish] = [Shell::Bash, Shell::Zsh, Shell::Fish].map(|shell| completions(shell, &commands));
        let mut checked = 0;
        for command in model.get_subcommands() {
            let name = command.get_name();
            let in_page = part(&page, &format!("\n.SS {name}\n"), "\n.SS ").replace("\\-", "-");
            let in_bash = part(&bash, &format!("\n        {name}) if"), "fi;;");
            let in_zsh = part(&zsh, &format!("\n        {name})\n"), ";;");
            let seen = format!("'__fish_seen_subcommand_from {name}'");
            let in_fish = fish.lines().filter(|line| line.contains(&seen)).collect::<Vec<_>>().join("\n");
            for long in command.get_arguments().filter_map(Arg::get_long) {
                assert!(in_page.contains(&format!("--{long}")), "{name} --{long} is not in the manual page");
                assert!(in_bash.contains(&format!("--{long}")), "{name} --{long} is not in bash's completions");
                assert!(in_zsh.contains(&format!("*--{long}[")), "{name} --{long} is not in zsh's completions");
                assert!(in_fish.contains(&format!(" -l {long} ")), "{name} --{long} is not in fish's completions");
                checked += 1;
            }
        }
        assert!(checked > 30, "{checked}");
        for (text, form) in
            [(&bash, "--sort) COMPREPLY"), (&zsh, "*--sort["), (&fish, "-l sort -r -f -a 'layer tensor ")]
        {
            assert!(text.contains(form), "{form}");
        }
        assert!([&bash, &zsh, &fish].iter().all(|text| text.contains("h_norm") && text.contains("tensor layer")));
    }

    #[test]
    fn usages_name_what_a_command_takes() {
        let usage: Vec<_> = all().into_iter().map(|command| format!("{} {}", command.name, command.usage)).collect();
        for line in ["stats FILE..", "compare FILE..", "worker [OPTIONS]", "help [COMMAND]"] {
            assert!(usage.iter().any(|usage| usage == line), "{line}: {usage:?}");
        }
    }
}
