//! The fuzzers' first inputs (`fuzz/corpus/`): small good files of each kind.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use llama_imatrix::convergence::{self, Agreement, ConvergenceFile, Half, Point, WeightAgreement};
use llama_imatrix::exact::ExactEntry;
use llama_imatrix::gguf::{DType, File, Writer};
use llama_imatrix::imatrix::{Entry, Format, Imatrix, Shown, ShownSums};
use llama_imatrix::lens::file::{self as lens, LensFile, Section};
use llama_imatrix::perplexity::Perplexity;
use llama_imatrix::shown::{RowSample, SampledLayer};
use llama_imatrix::state::{
    Accumulate, Digest, Fingerprint, Group, Likelihoods, ModelFingerprint, Output, Progress, Shard, SharedSums, State,
    reseal,
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
        sample: None,
        sums: match accumulate {
            Accumulate::F32 => SharedSums::f32([("blk.0.attn_k.weight", &rounded), ("blk.0.ffn_up.weight", &without)]),
            Accumulate::F64 => SharedSums::exact([("blk.0.attn_k.weight", &exact), ("blk.0.attn_q.weight", &exact)]),
        },
    }
    .write(&mut bytes)
    .unwrap();
    bytes
}

/// A state with the halves of its text, a curve and sampled rows.
fn state_of_halves(shard: u64) -> Vec<u8> {
    let bytes = state(shard, Accumulate::F64);
    let mut state = State::load_from(&bytes).unwrap();
    let SharedSums::Exact(groups) = &mut state.sums else { panic!("a state of exact sums") };
    for Group { even, .. } in groups {
        *even = Some(Cow::Owned(Half { sum2: vec![0.25, 1.0, 0.0, 0.0, 0.0, 0.0], counts: vec![1, 0] }));
    }
    state.curve = vec![point(1), point(2)];
    let layer = |weight: &str, width| SampledLayer { weight: weight.to_owned(), width };
    let mut sample =
        RowSample::new(vec![layer("blk.0.ffn_up_exps.weight", 2), layer("blk.1.ffn_gate_up_exps.weight", 1)]);
    for position in [0, 3, 7] {
        sample.offer(shard * 2, position, &[1.0, -2.0, 1e-3]);
    }
    state.sample = Some(sample);
    let mut out = Vec::new();
    state.write(&mut out).unwrap();
    out
}

fn point(chunks: i32) -> Point {
    let (weight, tokens) = ("blk.0.attn_k.weight".to_owned(), i64::from(chunks) * 16);
    Point { chunks, tokens, cosine: 0.75, weight, median_cosine: 0.875, relative_error: 0.125 }
}

/// A state whose run has measured the layers: the stream between attention and feed-forward too, and both logits.
fn state_of_measurements() -> Vec<u8> {
    const SETTINGS: &str = r#"{"model":{"name":"m","architecture":"llama","n_layer":1},"lens":true,"prism":true,"similarity":true,"per_chunk":2,"seed":0,"base":"model"}"#;
    const COLUMNS: &str = r#"{"lens":{"Ok":["Embedding",{"Between":0},{"After":0}]},"prism":{"Ok":[["embedding",null],["attention",0]]},"similarity":{"Ok":[[0,true,false]]}}"#;
    const WIDTH: usize = 3 * 3 + (2 * 4 + 2) + 6;
    let bytes = state(0, Accumulate::F64);
    let file = File::from_bytes(&bytes[..]).unwrap();
    let mut writer = Writer::new();
    file.keys().for_each(|(key, value)| {
        writer.set(key, value.clone());
    });
    writer.set("lens.settings", SETTINGS).set("lens.columns", COLUMNS);
    for tensor in file.tensors() {
        // The checksum stays last.
        if tensor.name == "checksum" {
            let chunks = [0_i64, 2, 1, 1].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
            writer.tensor("lens.chunks", DType::I64, &[2, 2], chunks).unwrap();
            let values: Vec<u8> = (0..3 * WIDTH).flat_map(|i| (i as f64 / 8.0).to_le_bytes()).collect();
            writer.tensor("lens.values", DType::F64, &[3 * WIDTH as u64], values).unwrap();
        }
        writer.tensor(tensor.name, tensor.dtype, &tensor.shape, tensor.data.to_vec()).unwrap();
    }
    let mut out = Vec::new();
    writer.write_to(&mut out).unwrap();
    reseal(&mut out);
    assert!(State::load_from(&out).unwrap().measurements.is_some_and(|found| found.findings.n_chunks() == 2));
    out
}

/// A lens file with everything that version 1 has now.
fn lens_file() -> Vec<u8> {
    let spread = |mean| lens::Spread { mean, p5: 0.0, p25: 0.25, p50: 0.5, p75: 0.75, p95: 1.0 };
    let at = |kl| lens::LensPoint { kl: spread(kl), kl_reduction: f64::NAN, top1_agreement: 0.5, target_nll: 3.0 };
    let addition = lens::Addition { mean: -0.5, mean_abs: 0.75, share: 0.5 };
    let part = |part, layer| lens::PrismPart { part, layer, raw: addition, relative: addition };
    let decomposition = lens::Decomposition {
        parts: vec![part(lens::Part::Embedding, None), part(lens::Part::Attention, Some(0))],
        layers: vec![lens::PrismLayer { layer: 0, raw: addition, relative: addition }],
        sum_check: lens::SumCheck { max_relative_error: 1e-6 },
    };
    let distance =
        lens::Distance { whole: spread(0.5), attention: Some(spread(0.25)), feed_forward: Some(spread(0.125)) };
    let file = LensFile {
        format: lens::FORMAT.into(),
        version: lens::VERSION,
        model: lens::Model { name: "m".into(), architecture: "llama".into(), n_layer: 1 },
        dataset: "wiki.txt".into(),
        positions: lens::Positions {
            chunks: 1,
            run_chunks: Some(2),
            chunk_size: 16,
            per_chunk: 4,
            sampled: 4,
            seed: 7,
        },
        lens: Some(Section::Measured(lens::Lens {
            base: "model".into(),
            embedding: Some(at(2.0)),
            layers: vec![lens::LensLayer { layer: 0, point: at(0.0), after_attention: Some(at(1.0)) }],
        })),
        prism: Some(Section::Measured(lens::Prism {
            next_token: decomposition.clone(),
            likeliest_token: Some(decomposition),
        })),
        similarity: Some(Section::Measured(lens::Similarity {
            layers: vec![lens::SimilarityLayer {
                layer: 0,
                whole: spread(0.5),
                attention: Some(spread(0.75)),
                feed_forward: None,
                distance: Some(distance),
            }],
        })),
    };
    let mut out = Vec::new();
    file.write(&mut out).unwrap();
    out
}

fn convergence_file() -> Vec<u8> {
    let agreement = Some(Agreement { rows: [3, 4], cosine: 0.5, relative_error: 0.25 });
    let weight = |weight: &str, experts| WeightAgreement { weight: weight.into(), in_sum2: 1.5, agreement, experts };
    let file = ConvergenceFile {
        format: convergence::FORMAT.into(),
        version: convergence::VERSION,
        curve: vec![point(1), point(2)],
        weights: vec![
            weight("blk.0.attn_k.weight", Vec::new()),
            weight("blk.0.ffn_down_exps.weight", vec![agreement, None]),
        ],
    };
    let mut out = Vec::new();
    file.write(&mut out).unwrap();
    out
}

/// A matrix with experts that were filled in both ways.
fn filled() -> Vec<u8> {
    let entry = |counts| Entry { sum2: vec![1.0, 4.0, 9.0], sum: Some(vec![1.0, -2.0, 3.0]), counts };
    let entries = [
        ("blk.0.ffn_down_exps.weight".to_owned(), entry(vec![2, 0, 1])),
        ("blk.0.ffn_up_exps.weight".to_owned(), entry(vec![2, 0, 1])),
    ];
    let mut imatrix = Imatrix { entries: entries.into(), chunk_size: 4, chunk_count: 1, ..Imatrix::default() };
    let sums = ShownSums { rows: 4, sum2: vec![8.0], sum: vec![2.0] };
    imatrix.fill_experts_with(1, &Shown::from([("blk.0.ffn_down_exps.weight".to_owned(), [(1, sums)].into())]));
    let mut out = Vec::new();
    imatrix.write(&mut out, Format::Gguf).unwrap();
    out
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
    add("state", "halves.state", state_of_halves(0));
    add("state", "measurements.state", state_of_measurements());
    add("gguf_imatrix", "filled.gguf", filled());
    add("lens", "parts.json", lens_file());
    add("convergence", "experts.json", convergence_file());
    add("merge", "halves", pair(&state_of_halves(0), &state_of_halves(1), 16));
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
