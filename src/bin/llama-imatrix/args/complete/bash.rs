use std::fmt::Write as _;

use super::super::command::{Command, Operands};
use super::super::groups::flags;
use super::super::table::Flag;

pub(in super::super) fn script(commands: &[Command]) -> String {
    let all: Vec<_> = flags().flat_map(Flag::spellings).collect();
    let files: Vec<_> = flags().filter(|flag| flag.takes_file()).flat_map(Flag::spellings).collect();
    let mut cases = String::new();
    for flag in flags().filter(|flag| !flag.choices().is_empty()) {
        let names = flag.spellings().collect::<Vec<_>>().join("|");
        let _ = writeln!(
            cases,
            "        {names}) COMPREPLY=($(compgen -W \"{}\" -- \"$cur\"));;",
            flag.choices().join(" ")
        );
    }
    format!(
        r#"_llama_imatrix() {{
    local cur prev
    cur="${{COMP_WORDS[COMP_CWORD]}}"
    prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    case "${{COMP_WORDS[1]}}" in
{commands}    esac
    if [ "$COMP_CWORD" -eq 1 ] && [ "${{cur#-}}" = "$cur" ]; then
        COMPREPLY=($(compgen -W "{words}" -- "$cur"))
        return
    fi
    case "$prev" in
        {files}) COMPREPLY=($(compgen -f -- "$cur"));;
{cases}        *) COMPREPLY=($(compgen -W "{all}" -- "$cur"));;
    esac
}}
complete -o filenames -F _llama_imatrix llama-imatrix
"#,
        words = commands.iter().map(|command| command.name).collect::<Vec<_>>().join(" "),
        commands = commands.iter().map(of_command).collect::<String>(),
        files = files.join("|"),
        all = all.join(" ")
    )
}

/// Within a command: words after an option that takes some, options after a dash, files.
fn of_command(command: &Command) -> String {
    let mut choices = String::new();
    for option in command.options.iter().filter(|option| !option.choices.is_empty()) {
        let (names, words) = (option.names.join("|"), option.choices.join(" "));
        let _ =
            writeln!(choices, "                {names}) COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\")); return;;");
    }
    let names: Vec<_> = command.options.iter().flat_map(|option| &option.names).map(String::as_str).collect();
    format!(
        r#"        {name}) if [ "$COMP_CWORD" -gt 1 ]; then
            case "$prev" in
{choices}            esac
            case "$cur" in
                -*) COMPREPLY=($(compgen -W "{names}" -- "$cur"));;
                *) COMPREPLY=($(compgen {operands} -- "$cur"));;
            esac
            return
        fi;;
"#,
        name = command.name,
        operands = match &command.operands {
            Operands::Words(words) => format!("-W \"{}\"", words.join(" ")),
            Operands::Files | Operands::Nothing => "-f".to_owned(),
        },
        names = names.join(" ")
    )
}
