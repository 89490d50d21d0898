//! Completions for bash, from the table.

use std::fmt::Write as _;

use super::table::{Flag, flags};

pub(super) fn bash() -> String {
    let all: Vec<_> = flags().flat_map(Flag::spellings).collect();
    let files: Vec<_> = flags().filter(|flag| flag.takes_file()).flat_map(Flag::spellings).collect();
    let mut cases = String::new();
    for flag in flags().filter(|flag| !flag.choices().is_empty()) {
        let names = flag.spellings().collect::<Vec<_>>().join("|");
        let _ = writeln!(
            cases,
            "        {names}) COMPREPLY=($(compgen -W \"{}\" -- \"$cur\"));;",
            flag.choices().join(" ").trim()
        );
    }
    format!(
        r#"_llama_imatrix() {{
    local cur prev
    cur="${{COMP_WORDS[COMP_CWORD]}}"
    prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    case "$prev" in
        {files}) COMPREPLY=($(compgen -f -- "$cur"));;
{cases}        *) COMPREPLY=($(compgen -W "{all}" -- "$cur"));;
    esac
}}
complete -o filenames -F _llama_imatrix llama-imatrix
"#,
        files = files.join("|"),
        all = all.join(" ")
    )
}
