//! Requests other than a run.

use super::table::{Flag, Set, Shell, Special};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        &["-h", "--help", "--usage"],
        "",
        "Show the most used flags and the commands (-h), or all flags",
        Set::Special(Special::Help),
    )
    .same_bits(),
    Flag::new(
        &["--version"],
        "",
        "Show the versions of this program and of its llama.cpp",
        Set::Special(Special::Version),
    )
    .same_bits(),
    Flag::new(
        &["-cl", "--cache-list"],
        "",
        "List the models in the Hugging Face cache",
        Set::Special(Special::CacheList),
    )
    .same_bits(),
    Flag::new(
        &["--completion-bash"],
        "",
        "Print completions for bash: source <(llama-imatrix --completion-bash)",
        Set::Special(Special::Completion(Shell::Bash)),
    )
    .same_bits(),
    Flag::new(
        &["--completion-zsh"],
        "",
        "Print completions for zsh, for a file _llama-imatrix in a folder of $fpath",
        Set::Special(Special::Completion(Shell::Zsh)),
    )
    .ours()
    .same_bits(),
    Flag::new(
        &["--completion-fish"],
        "",
        "Print completions for fish: llama-imatrix --completion-fish | source",
        Set::Special(Special::Completion(Shell::Fish)),
    )
    .ours()
    .same_bits(),
    Flag::new(&["--man"], "", "Print the manual page: llama-imatrix --man | man -l -", Set::Special(Special::Man))
        .ours()
        .same_bits(),
    Flag::new(
        &["--list-devices"],
        "",
        "List the devices that can hold layers, including those of --rpc",
        Set::Special(Special::ListDevices),
    )
    .same_bits(),
];
