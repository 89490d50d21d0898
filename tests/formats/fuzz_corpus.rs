//! The fuzzers' first inputs (`fuzz/corpus/`): small good files of each kind.

use std::path::{Path, PathBuf};

use llama_imatrix::exact::ExactEntry;
use llama_imatrix::imatrix::Entry;
use llama_imatrix::perplexity::Perplexity;
use llama_imatrix::state::{
    Accumulate, Digest, Fingerprint, Likelihoods, ModelFingerprint, Output, Progress, Shard, SharedSums, State,
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
        measurements: None,
        curve: Vec::new(),
        sums: match accumulate {
            Accumulate::F32 => SharedSums::f32([("blk.0.attn_k.weight", &rounded), ("blk.0.ffn_up.weight", &without)]),
            Accumulate::F64 => SharedSums::exact([("blk.0.attn_k.weight", &exact), ("blk.0.attn_q.weight", &exact)]),
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

const TOOLS: &str = r#"{"messages":[{"role":"user","content":"Two?"},{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"add","arguments":{"a":1.5e-7,"b":[true,null,"\u00e9\ud83d\ude42"]}}}]}],"tools":[{"type":"function","function":{"name":"add"}}]}"#;
const SHARE_GPT: &str = r#"{"conversations":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Ho"}]}"#;
const CALLS: &str = "{%- for message in messages %}{{ '<|' + message.role + '|>' }}{% if message.tool_calls %}\
                     {{ message.tool_calls | tojson(indent=2) }}{% else %}{{ message.content.strip() }}{% endif %}\
                     {% endfor %}";
const NAMESPACE: &str = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}\
                         {{ ns.n }}{{ tools | tojson }}{{ strftime_now('%d %b %Y') }}";
/// Three lines of text, by gzip.
const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\xc9\x48\x55\x28\x4e\x4d\xd4\x51\x28\x81\x30\xb8\x4a\x08\x0a\x00\x00\xbc\x85\xda\x7c\x33\x00\x00\x00";

/// A template behind its length, and a line.
fn chat(template: &str, line: &str) -> Vec<u8> {
    [&(template.len() as u16).to_le_bytes()[..], template.as_bytes(), line.as_bytes()].concat()
}

/// A frame of zstd that is skipped, and one of a raw and a repeated block; by its first byte a text.
fn zstd() -> Vec<u8> {
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7];
    let block = |last: u32, kind: u32, size: u32| ((size << 3) | (kind << 1) | last).to_le_bytes()[..3].to_vec();
    let header = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 13];
    [&[1], &skipped[..], &header, &block(0, 0, 8), b"the sea\n", &block(1, 1, 5), b"a"].concat()
}

/// Two chunks of four tokens each, a vocabulary of three.
fn logits() -> Vec<u8> {
    let mut out = b"_logits_".to_vec();
    for number in [4, 3, 2, 1, 0, 2, 1, 1, 2, 0, 1] {
        out.extend(i32::to_le_bytes(number));
    }
    for _ in 0..2 {
        out.extend(0.5_f32.to_le_bytes());
        out.extend((-9.0_f32).to_le_bytes());
        out.extend([1, 0, 16, 0, 2, 0, 0, 0]);
    }
    out
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
    add("chat", "calls", chat(CALLS, TOOLS));
    add("chat", "namespace", chat(NAMESPACE, TOOLS));
    add("chat", "share-gpt", chat(CALLS, SHARE_GPT));
    add("jsonl", "conversations", [TOOLS, SHARE_GPT, r#"{"text":"a\nb"}"#, ""].join("\n").into_bytes());
    add("compressed", "gzip", [&[0], GZIP].concat());
    add("compressed", "gzip-twice", [&[0], GZIP, GZIP].concat());
    add("compressed", "zstd", zstd());
    add("logits", "two-chunks", logits());
    out
}

/// Makes the corpus where `FUZZ_CORPUS` names a folder: `FUZZ_CORPUS=fuzz/corpus cargo test fuzz_corpus`.
#[test]
fn the_fuzz_corpus_is_current() {
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
