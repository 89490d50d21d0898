//! The rooms of `src/` import one way: a room uses those before it in [`ROOMS`], never those after it. So do the program's
//! folders, in the order of [`FOLDERS`].
//!
//! The test reads the paths that begin with `crate::` or that climb to the crate by `super::`. It skips comments, modules under
//! `#[cfg(test)]` and files of tests, which may use everything.

mod imports;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imports::{Import, imports};

/// The rooms, lowest first.
const ROOMS: &[&str] = &[
    "random",
    "options",
    "gguf",
    "mixture",
    "atomic_file",
    "exact",
    "likelihood",
    "perplexity",
    "sums",
    "imatrix",
    "stats",
    "convergence",
    "calibration",
    "llama",
    "products",
    "nextn",
    "collect",
    "shown",
    "lens",
    "state",
    "check",
    "evaluate",
    "quantize",
    "report",
];

/// The program's folders, lowest first. The files beside `main.rs` may import from all.
const FOLDERS: &[&str] = &["ui", "args", "download", "config", "run", "offline", "commands"];

/// Imports that the order would allow and that are wrong: llama.cpp's layer scores rows, and knows nothing of their mean.
const NEVER: &[(&str, &str)] = &[("llama", "perplexity")];

/// Lists every import that is wrong, then every pair of rooms that import each other.
fn wrong(rooms: &[&str], never: &[(&str, &str)], imports: &[Import]) -> Vec<String> {
    let place = |room: &str| rooms.iter().position(|&known| known == room);
    let mut wrong = Vec::new();
    let mut pairs = BTreeSet::new();
    for import in imports.iter().filter(|import| import.from != import.to) {
        let Import { file, line, from, to } = import;
        match (place(from), place(to)) {
            (None, _) => wrong.push(format!("{file}:{line}: '{from}' is not in the list of rooms")),
            (_, None) => wrong.push(format!("{file}:{line}: crate::{to} is not in the list of rooms")),
            (Some(own), Some(other)) if own < other => {
                wrong.push(format!("{file}:{line}: {from} imports {to}, which is above it"));
            }
            _ if never.contains(&(from, to)) => wrong.push(format!("{file}:{line}: {from} must not import {to}")),
            _ => {}
        }
        pairs.insert((from.as_str(), to.as_str()));
    }
    let mutual = pairs.iter().filter(|(a, b)| a < b && pairs.contains(&(*b, *a)));
    wrong.extend(mutual.map(|(a, b)| format!("{a} and {b} import each other")));
    wrong
}

/// Lists the source files below a folder, without those of the program and of tests.
fn source_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["bin", "tests"].contains(&name) {
                source_files(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && !["lib.rs", "tests.rs"].contains(&name)
        {
            files.push(path);
        }
    }
}

/// Returns the imports of all files below a folder, whose names are relative to it.
fn all_imports(root: &str) -> Vec<Import> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut files = Vec::new();
    source_files(&root, &mut files);
    files.sort();
    let read = |path: &PathBuf| {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        imports(&file, &fs::read_to_string(path).unwrap())
    };
    files.iter().flat_map(read).collect()
}

fn has(imports: &[Import], from: &str, to: &str) -> bool {
    imports.iter().any(|import| import.from == from && import.to == to)
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let all = all_imports("src");
    assert!(has(&all, "collect", "llama") && has(&all, "imatrix", "gguf"), "the imports of src/ were not found");
    let wrong = wrong(ROOMS, NEVER, &all);
    assert!(wrong.is_empty(), "{} wrong imports:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_folder_of_the_program_imports_only_folders_below_it() {
    let all: Vec<Import> =
        all_imports("src/bin/llama-imatrix").into_iter().filter(|import| import.file.contains('/')).collect();
    assert!(has(&all, "run", "config") && has(&all, "commands", "offline"), "the program's imports were not found");
    let wrong = wrong(FOLDERS, &[], &all);
    assert!(wrong.is_empty(), "{} wrong imports:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_module_of_the_library_is_a_room() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules =
        lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    let unknown: Vec<&str> = modules.filter(|module| !ROOMS.contains(module)).collect();
    assert!(unknown.is_empty(), "not in the list of rooms: {unknown:?}");
}

#[test]
fn every_planted_import_is_named() {
    let rooms = ["low", "middle", "high"];
    let files = [
        ("low/mod.rs", "use std::fmt;\nuse crate::{high::A, middle::{self, B}};\n"),
        ("middle.rs", "use crate::low::C;\nfn f() { super::high::g() }\n"),
        ("high/deep/part.rs", "use super::super::super::low::D;\nuse super::own;\nuse crate::attic::E;\n"),
        ("cellar.rs", "use crate::low::F;\n"),
    ];
    let all: Vec<Import> = files.iter().flat_map(|(file, text)| imports(file, text)).collect();
    assert_eq!(
        wrong(&rooms, &[("high", "low")], &all),
        [
            "low/mod.rs:2: low imports high, which is above it",
            "low/mod.rs:2: low imports middle, which is above it",
            "middle.rs:2: middle imports high, which is above it",
            "high/deep/part.rs:1: high must not import low",
            "high/deep/part.rs:3: crate::attic is not in the list of rooms",
            "cellar.rs:1: 'cellar' is not in the list of rooms",
            "high and low import each other",
            "low and middle import each other",
        ]
    );
}
