//! Texts tokenized in pieces have the tokens of the whole.

#![allow(clippy::print_stdout, reason = "what the ignored tests are for: run with --nocapture")]

use std::path::{Path, PathBuf};

use llama_imatrix::gguf::{DType, File, Writer};
use llama_imatrix::llama::{Model, ModelOptions, OverrideValue};

use crate::support;

/// What meets in a text: white space of all kinds around words, numbers and signs, and marks of special tokens.
const FRAGMENTS: &[&str] = &[
    " ",
    " ",
    " ",
    "\n",
    "\n",
    "\n\n",
    "  ",
    "\r\n",
    "\t",
    " \n",
    "\n ",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "▁",
    "the",
    "The",
    "hello",
    "World",
    "don't",
    "I'LL",
    "we're",
    "naïve",
    "straße",
    "日本語",
    "中文。",
    "한국어",
    "ไทย",
    "हिन्दी",
    "🙂",
    "e\u{301}",
    "1",
    "1234",
    "٣",
    ".",
    ",",
    "!?",
    "...",
    "(",
    ")",
    "/",
    "//",
    "#",
    "<",
    ">",
    "|",
    "_",
    "x_y",
    "<s>",
    "</s>",
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|mask|>",
    "[INST]",
    "<bos>",
    "<0x0A>",
    "<div>",
    "    ",
    "a",
    "b",
    "c",
    "User:",
    "IMGIMGABZ",
    "\u{feff}",
];

/// Some 600 KB, the same for the same seed: nine pieces. Most of it is words at spaces and newlines, so that there are
/// places to cut.
fn text(seed: u32) -> String {
    let mut state = seed;
    let mut below = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    let mut text = String::new();
    while text.len() < 600_000 {
        if below(4) == 0 {
            text += FRAGMENTS[below(FRAGMENTS.len())];
        } else {
            text += ["word", "And", "x", "tokens.", "it"][below(5)];
            text += [" ", " ", "\n"][below(3)];
        }
    }
    text
}

/// Compares both ways, and says into how many pieces the text went.
fn compare(model: &Model, name: &str, text: &[u8]) -> usize {
    let vocab = model.vocab();
    let pieces = vocab.pieces(text);
    for parse_special in [false, true] {
        let whole = vocab.tokenize(text, parse_special).unwrap();
        let bytes = std::sync::atomic::AtomicUsize::new(0);
        let progress = |done| {
            bytes.fetch_max(done, std::sync::atomic::Ordering::Relaxed);
        };
        let found = pieces.tokenize(parse_special, 3, &progress).unwrap();
        let differs = whole.iter().zip(&found).position(|(a, b)| a != b);
        assert_eq!((differs, whole.len()), (None, found.len()), "{name}, parse_special {parse_special}");
        assert!(pieces.len() == 1 || bytes.into_inner() + pieces.len() > text.len(), "{name}: all is heard of");
    }
    pieces.len()
}

#[test]
fn in_pieces_as_in_one() {
    let dir = tempfile::tempdir().unwrap();
    // SPM, and BPE with three pre-tokenizers.
    for name in ["llama", "qwen2", "gpt2", "lfm2"] {
        let path = dir.path().join(name);
        std::fs::write(&path, support::build(name)).unwrap();
        let model = Model::load(&path, &ModelOptions::default()).unwrap();
        let n = compare(&model, name, text(1).as_bytes());
        assert!(n > 4, "{name}: {n} pieces");
        let mut invalid = text(2).into_bytes();
        invalid[300_000] = 0xff;
        assert_eq!(compare(&model, name, &invalid), 1, "{name}: not UTF-8");
        assert_eq!(compare(&model, name, b"short"), 1);
        assert_eq!(compare(&model, name, b""), 1);
    }
    // Words over white space; the file says otherwise.
    let superbpe = ("tokenizer.ggml.pre".to_owned(), OverrideValue::Text("superbpe".to_owned()));
    let options = ModelOptions { kv_overrides: vec![superbpe], ..ModelOptions::default() };
    let model = Model::load(&dir.path().join("qwen2"), &options).unwrap();
    assert_eq!(compare(&model, "superbpe", text(1).as_bytes()), 1);
}

/// Each has expressions of its own. A minute: llama.cpp leaves some to `std::regex`.
#[test]
#[ignore = "slow"]
fn in_pieces_as_in_one_with_every_pre_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for pre in include_str!("../../src/llama/cut_at_newlines.txt").lines() {
        let (tiny, mut out) = (File::from_bytes(support::build("qwen2")).unwrap(), Writer::new());
        tiny.keys().for_each(|(key, value)| {
            out.set(key, value.clone());
        });
        out.set("tokenizer.ggml.pre", pre);
        for tensor in tiny.tensors() {
            out.tensor(tensor.name, tensor.dtype, &tensor.shape, tensor.data).unwrap();
        }
        let mut bytes = Vec::new();
        out.write_to(&mut bytes).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let model = Model::load(&path, &ModelOptions::default()).unwrap();
        let n = compare(&model, pre, text(1).as_bytes());
        assert!(n > 4, "{pre}: {n} pieces");
    }
}

/// llama.cpp's vocabularies, `models/ggml-vocab-*.gguf` of its repository: `LLAMA_IMATRIX_VOCABS=DIR cargo test --release
/// in_pieces_as_in_one_with_real_vocabularies -- --ignored`.
#[test]
#[ignore = "needs llama.cpp's vocabularies: LLAMA_IMATRIX_VOCABS names their folder"]
fn in_pieces_as_in_one_with_real_vocabularies() {
    for path in vocabularies() {
        let model = model_with_vocabulary(&path);
        let name = path.file_name().unwrap().to_string_lossy();
        let special = std::fs::read_to_string(path.with_extension("gguf.inp")).unwrap_or_default();
        for seed in 1..=3 {
            let text = text(seed) + &special + &text(seed + 10);
            let n = compare(&model, &name, text.as_bytes());
            println!("{name}: {n} pieces of {} bytes", text.len());
        }
    }
}

/// Seconds for 24 MB with a mark of a special token every kilobyte: docs/performance.md has the table.
#[test]
#[ignore = "measures; needs llama.cpp's vocabularies"]
fn seconds_of_tokenizing() {
    let calibration = include_str!("../../assets/quickstart/calibration.txt");
    for path in vocabularies() {
        let name = path.file_stem().unwrap().to_string_lossy();
        let mark = match name.strip_prefix("ggml-vocab-") {
            Some("qwen2" | "qwen35") => "<|im_start|>",
            Some("llama-bpe") => "<|start_header_id|>",
            Some("gemma-4") => "<eos>",
            Some("llama-spm" | "phi-3") => "</s>",
            _ => continue,
        };
        let model = model_with_vocabulary(&path);
        let mut text = String::new();
        for (i, line) in calibration.lines().cycle().enumerate() {
            text += line;
            text += if i % 8 == 0 { mark } else { "" };
            text += "\n";
            if text.len() > 24_000_000 {
                break;
            }
        }
        let time = |tokenize: &dyn Fn() -> usize| {
            let started = std::time::Instant::now();
            (tokenize(), started.elapsed().as_secs_f64())
        };
        for parse_special in [false, true] {
            let vocab = model.vocab();
            let (n, whole) = time(&|| vocab.tokenize(text.as_bytes(), parse_special).unwrap().len());
            let pieces = vocab.pieces(text.as_bytes());
            let [one, two] = [1, 2].map(|threads| {
                let (found, seconds) = time(&|| pieces.tokenize(parse_special, threads, &|_| {}).unwrap().len());
                assert_eq!(found, n);
                seconds
            });
            println!(
                "{name}, parse_special {parse_special}: {n} tokens, whole {whole:.2}, pieces {one:.2}, 2 threads {two:.2}"
            );
        }
    }
}

fn vocabularies() -> Vec<PathBuf> {
    let folder = std::env::var_os("LLAMA_IMATRIX_VOCABS").expect("LLAMA_IMATRIX_VOCABS names a folder");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn model_with_vocabulary(path: &Path) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    std::fs::write(&file, with_vocabulary(path)).unwrap();
    Model::load(&file, &ModelOptions::default()).unwrap()
}

/// A tiny model with the vocabulary of another file, which has no weights.
fn with_vocabulary(path: &Path) -> Vec<u8> {
    let (tiny, vocabulary) = (File::from_bytes(support::build("llama")).unwrap(), File::open(path).unwrap());
    let n = vocabulary.get("tokenizer.ggml.tokens").and_then(|v| v.as_strings()).unwrap().len() as u64;
    let mut out = Writer::new();
    let of_tokenizer = |key: &str| key.starts_with("tokenizer.");
    let keys = tiny.keys().filter(|(key, _)| !of_tokenizer(key) && !key.ends_with(".vocab_size"));
    for (key, value) in keys.chain(vocabulary.keys().filter(|(key, _)| of_tokenizer(key))) {
        out.set(key, value.clone());
    }
    for tensor in tiny.tensors() {
        if tensor.name == "token_embd.weight" || tensor.name == "output.weight" {
            let shape = [tensor.shape[0], n];
            let zeros = vec![0_u8; DType::F16.bytes_for(shape[0] * n).unwrap() as usize];
            out.tensor(tensor.name, DType::F16, &shape, zeros).unwrap();
        } else {
            out.tensor(tensor.name, tensor.dtype, &tensor.shape, tensor.data.to_vec()).unwrap();
        }
    }
    let mut bytes = Vec::new();
    out.write_to(&mut bytes).unwrap();
    bytes
}
