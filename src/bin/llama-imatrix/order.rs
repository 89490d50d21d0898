//! The order of the program's folders: a file imports from its own folder and from lower ones.

use std::fs;
use std::path::Path;

/// The folders, lowest first. Files beside `main.rs` may import from all.
const ORDER: [&str; 7] = ["ui", "args", "download", "config", "run", "offline", "commands"];

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/llama-imatrix");
    let mut files = Vec::new();
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            assert!(ORDER.contains(&name), "the folder '{name}' is not in the list");
            add_sources(&path, &mut files);
        }
    }
    assert!(files.len() > 60, "only {} files were found", files.len());
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            imports_that_point_up(&name, &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert_eq!(wrong, [""; 0], "the order is {ORDER:?}, lowest first");
}

#[test]
fn an_import_that_points_up_is_found() {
    for (file, source) in [
        ("ui/log.rs", "use crate::args::Flags;\n"),
        ("args/help.rs", "    for (name, what) in crate::commands::NAMES {\n"),
        ("config/mod.rs", "use crate::{\n    run::{text, lens},\n    ui::log,\n};\n"),
        ("config/mod.rs", "use crate::{ui::{log, print}, offline};\n"),
        ("download/http.rs", "use super::super::config::Collect;\n"),
        ("args/complete/bash.rs", "use super::super::super::{offline::stats};\n"),
        ("run/text.rs", "use crate::order;\n"),
    ] {
        assert_eq!(imports_that_point_up(file, source).len(), 1, "{file}: {source}");
    }
    for (file, source) in [
        ("config/mod.rs", "use crate::args::Flags;\nuse crate::{ui::log, config::output};\n"),
        ("ui/log.rs", "//! Not crate::args::Flags.\nuse super::progress;\n"),
        ("args/complete/bash.rs", "use super::super::table::Flag;\n"),
        ("args/parse.rs", "mod tests {\n    use super::super::log;\n}\n"),
    ] {
        assert_eq!(imports_that_point_up(file, source), [""; 0], "{file}: {source}");
    }
}

fn add_sources(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `FILE imports NAME` for each path from the crate's root that leads to a higher folder, or to none.
fn imports_that_point_up(file: &str, source: &str) -> Vec<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let (folder, _) = file.split_once('/').unwrap();
    let own = ORDER.iter().position(|name| *name == folder).unwrap();
    let place = |name: &&str| ORDER.iter().position(|known| known == name);
    let from_root = roots(&code, "crate::").into_iter().filter(|name| place(name).is_none_or(|place| place > own));
    // The module of `a/b.rs` is two below the root, that of `a/mod.rs` one.
    let depth = file.trim_end_matches("/mod.rs").split('/').count();
    let climbing = "super::".repeat(depth);
    let climbed = roots(&code, &climbing).into_iter().filter(|name| place(name).is_some_and(|place| place > own));
    from_root.chain(climbed).map(|name| format!("{file} imports {name}")).collect()
}

/// The names that follow `prefix`, where it begins a path; of a group in braces each.
fn roots<'c>(code: &'c str, prefix: &str) -> Vec<&'c str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word = |text: &'c str| &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())];
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c| is_word(c) || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && is_word(c) => {
                    names.push(word(&group[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names.retain(|name| *name != "super" && *name != "self");
    names
}
