//! What upstream's program wrote and printed for the same inputs; see `tests/data/formats`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use llama_imatrix::imatrix::{ChunkSizes, Format, Imatrix};
use llama_imatrix::report;

use super::inputs;

const SIZES: ChunkSizes = ChunkSizes { run: 512, legacy: 512 };

struct Case<'a> {
    golden: &'a str,
    kind: &'a str,
    ctx: i32,
    exit: i32,
    inputs: Vec<&'a str>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats")
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let f: Vec<&str> = line.split_whitespace().collect();
            Case {
                golden: f[0],
                kind: f[1],
                ctx: f[2].parse().unwrap(),
                exit: f[3].parse().unwrap(),
                inputs: f[4..].to_vec(),
            }
        })
        .collect()
}

fn merged(case: &Case<'_>, inputs: &HashMap<&str, Vec<u8>>) -> Imatrix {
    let mut imatrix = Imatrix::default();
    for name in &case.inputs {
        // Upstream weighs a legacy file by the chunk size so far.
        let sizes = ChunkSizes { run: case.ctx, legacy: imatrix.effective_chunk_size(case.ctx) };
        imatrix.merge(&Imatrix::load_from(&inputs[name]).unwrap(), sizes).unwrap();
    }
    imatrix.settle_chunk_size(case.ctx);
    imatrix
}

/// Bytes that differ, for the message: where, and what is around.
fn difference(ours: &[u8], theirs: &[u8]) -> String {
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    let around = |b: &[u8]| String::from_utf8_lossy(&b[at.saturating_sub(60)..b.len().min(at + 30)]).into_owned();
    format!("lengths {} and {}, byte {at}:\n{:?}\n{:?}", ours.len(), theirs.len(), around(ours), around(theirs))
}

#[test]
fn files_and_tables_are_upstreams_to_the_byte() {
    let inputs: HashMap<_, _> = inputs::all().into_iter().collect();
    let text = std::fs::read_to_string(folder().join("cases.txt")).unwrap();
    let mut failures = Vec::new();
    for case in cases(&text) {
        let theirs = std::fs::read(folder().join(case.golden)).unwrap();
        let imatrix = merged(&case, &inputs);
        let mut ours = Vec::new();
        match case.kind {
            "gguf" => imatrix.write(&mut ours, Format::Gguf).unwrap(),
            "dat" => imatrix.write(&mut ours, Format::Dat).unwrap(),
            "stats" => {
                let outcome = report::show_statistics(&mut ours, &imatrix, case.inputs[0]).unwrap();
                assert_eq!(outcome.is_complete(), case.exit == 0, "{}: {:?}", case.golden, outcome.warnings());
            }
            other => panic!("kind {other}"),
        }
        if ours != theirs {
            failures.push(format!("{}: {}", case.golden, difference(&ours, &theirs)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn reading_back_what_was_written_changes_nothing() {
    for (name, bytes) in inputs::all() {
        let mut first = Imatrix::default();
        first.merge(&Imatrix::load_from(&bytes).unwrap(), SIZES).unwrap();
        first.settle_chunk_size(512);
        if name == "legacy-long.dat" || name == "numbers.gguf" {
            continue; // a cut name; NaN is not equal to itself
        }
        let mut file = Vec::new();
        first.write(&mut file, Format::Gguf).unwrap();
        let mut second = Imatrix::default();
        second.merge(&Imatrix::load_from(&file).unwrap(), SIZES).unwrap();
        assert_eq!(first, second, "{name}");
        let mut again = Vec::new();
        second.write(&mut again, Format::Gguf).unwrap();
        assert_eq!(file, again, "{name}");
    }
}
