//! The fuzzers' first inputs (`fuzz/corpus/`): small good files of each kind.

use std::path::{Path, PathBuf};

use llama_imatrix::exact::ExactEntry;
use llama_imatrix::imatrix::Entry;
use llama_imatrix::perplexity::Perplexity;
use llama_imatrix::state::{
    Accumulate, Digest, Fingerprint, Likelihoods, ModelFingerprint, Output, Progress, Shard, State, Sums,
};

use super::inputs;

fn state(shard: u64, accumulate: Accumulate) -> Vec<u8> {
    let model = ModelFingerprint { architecture: "llama".into(), n_tensors: 9, n_bytes: 4096, ..Default::default() };
    let fingerprint = Fingerprint {
        draft: (accumulate == Accumulate::F32).then(|| model.clone()),
        model,
        text: Digest::of_tokens(&[1, 2, 3]),
        n_tokens: 64,
        chunk_size: 16,
        n_batch: 16,
        n_ubatch: 16,
        accumulate,
        llama_cpp: "b1".into(),
        flags: [("process-output".into(), "true".into())].into(),
    };
    let mut progress = Progress { n_chunks: 4, tokens: 32, chunk_count: 2, ..Progress::default() };
    progress.shard = Shard::new(shard, 2).unwrap();
    progress.done.insert(shard * 2..shard * 2 + 2);
    progress.discarded.insert(1..1 + u64::from(shard == 0));
    let mut likelihoods = Likelihoods { running: Perplexity::default(), ..Likelihoods::default() };
    progress.done.iter().for_each(|chunk| likelihoods.add(chunk, &[0.5, 1.5, 2.5], accumulate == Accumulate::F64));
    let mut exact = ExactEntry::zeros(6, 2);
    exact.add_rows(0..3, &[1.0, -2.0, 1e-3, 7.0, 0.0, 1e6], &[0, 3]).unwrap();
    exact.counts = vec![2, 0];
    let rounded = exact.round();
    let without = Entry { sum: None, ..rounded.clone() };
    let mut bytes = Vec::new();
    State {
        fingerprint,
        progress,
        output: Output { datasets: vec!["wiki.txt".into()], chunk_size: 16, ..Output::default() },
        likelihoods: Some(likelihoods),
        sums: match accumulate {
            Accumulate::F32 => Sums::f32([("blk.0.attn_k.weight", &rounded), ("blk.0.ffn_up.weight", &without)]),
            Accumulate::F64 => Sums::exact([("blk.0.attn_k.weight", &exact), ("blk.0.attn_q.weight", &exact)]),
        },
    }
    .write(&mut bytes)
    .unwrap();
    bytes
}

/// Two files behind the length of the first and a byte with its weight.
fn pair(a: &[u8], b: &[u8], weight: u8) -> Vec<u8> {
    [&(a.len() as u16).to_le_bytes()[..], &[weight], a, b].concat()
}

fn all() -> Vec<(PathBuf, Vec<u8>)> {
    let input = |name: &str| inputs::all().into_iter().find(|(found, _)| *found == name).unwrap().1;
    let mut out = Vec::new();
    let mut add = |target: &str, name: &str, bytes: Vec<u8>| out.push((Path::new(target).join(name), bytes));
    for name in ["bare.gguf", "routed-one.gguf", "nextn-counted.gguf", "names.gguf"] {
        add("gguf_imatrix", name, input(name));
    }
    for name in ["legacy.dat", "legacy-long.dat", "legacy-bare.dat"] {
        add("dat", name, input(name));
    }
    add("state", "f32.state", state(0, Accumulate::F32));
    add("state", "f64.state", state(1, Accumulate::F64));
    add("merge", "matrices", pair(&input("bare.gguf"), &input("bare.gguf"), 8));
    add("merge", "formats", pair(&input("routed-one.gguf"), &input("legacy-bare.dat"), 40));
    // Bytes at a time, then what a server answers: a size, a version, what its transport can do.
    let answer = |size: u64, version: &[u8]| [&[255], &size.to_le_bytes()[..], version].concat();
    add("rpc_greeting", "answer", [answer(28, &[7, 0, 3, 0]), vec![0; 24]].concat());
    add("rpc_greeting", "older", answer(3, &[3, 5, 0]));
    add("rpc_greeting", "cut", answer(28, &[7]));
    add("rpc_greeting", "http", b"\x01HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    add("merge", "states", pair(&state(0, Accumulate::F64), &state(1, Accumulate::F64), 16));
    out
}

/// Makes the corpus where `FUZZ_CORPUS` names a folder: `FUZZ_CORPUS=fuzz/corpus cargo test fuzz_corpus`.
#[test]
fn fuzz_corpus_is_what_this_makes() {
    let make = std::env::var_os("FUZZ_CORPUS");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (path, bytes) in all() {
        if let Some(folder) = &make {
            let path = Path::new(folder).join(&path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        } else if folder.exists() {
            let committed = std::fs::read(folder.join(&path)).unwrap();
            assert!(committed == bytes, "{}: make it anew, see above", path.display());
        }
    }
}
