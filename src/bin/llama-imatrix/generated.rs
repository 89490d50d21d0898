//! Files that are made from the flags' table and the commands are what the program would print now.

use crate::args::{Shell, completions, man, markdown};
use crate::commands::all;

#[test]
fn flags_md_is_current() {
    assert_current("docs/flags.md", &markdown());
}

/// The files in `assets/completions/` are for packages, which cannot run the program.
#[test]
fn completions_are_current() {
    for (shell, path) in [
        (Shell::Bash, "assets/completions/llama-imatrix.bash"),
        (Shell::Zsh, "assets/completions/_llama-imatrix"),
        (Shell::Fish, "assets/completions/llama-imatrix.fish"),
    ] {
        assert_current(path, &completions(shell, &all()));
    }
}

#[test]
fn the_manual_page_is_current() {
    assert_current("assets/man/llama-imatrix.1", &man(&all()));
}

/// Fails where a file that is made from the table is not what it would be now; with `UPDATE_FLAGS_MD` set, writes it.
fn assert_current(path: &str, text: &str) {
    let full = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_FLAGS_MD").is_some() {
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(&full, text).unwrap();
    }
    let committed = std::fs::read_to_string(&full).unwrap_or_default();
    assert!(committed == text, "{path} is not current: UPDATE_FLAGS_MD=1 cargo test --release current");
}
