//! Models that must end in a clear error, never in a crash or a wrong file.

use llama_imatrix::gguf::Value;

use super::TestModel;
use super::arch::llama;
use super::model::ModelFile;

/// The token whose embedding is NaN in `llama-nan-token`: the first byte of `text::LATE`, after three special tokens.
const LATE_TOKEN: u64 = 3 + 0xd0;

/// llama with one bad weight, cut short, or with a vocabulary that llama.cpp's tokenizer ends the process on.
pub const HOSTILE: &[TestModel] = &[
    TestModel {
        name: "llama-nan-layer",
        about: "a NaN in blk.1.ffn_norm: the first activation that is not finite is what blk.1.ffn_gate/up read",
        build: || poisoned("blk.1.ffn_norm.weight", 7, f32::NAN),
    },
    TestModel {
        name: "llama-inf-layer",
        about: "an infinity in blk.1.ffn_down: layer 1 is whole, layer 2 reads what is not finite",
        build: || poisoned("blk.1.ffn_down.weight", 7, f32::INFINITY),
    },
    TestModel {
        name: "llama-nan-token",
        about: "a NaN in one token's embedding: the run is fine until the chunk that has Ж, after four fifths of the text",
        build: || poisoned("token_embd.weight", LATE_TOKEN * llama::N_EMBD, f32::NAN),
    },
    TestModel {
        name: "llama-truncated",
        about: "the header whole, the last tensors' data missing",
        build: || truncated(llama::build(), 3, 4),
    },
    TestModel {
        name: "llama-truncated-header",
        about: "ends inside the key/values",
        build: || truncated(llama::build(), 1, 200),
    },
    TestModel {
        name: "llama-no-vocab",
        about: "no tokenizer: an assertion of llama.cpp's, were a text tokenized",
        build: || with_tokenizer(&[("model", "no_vocab".into())]),
    },
    TestModel {
        name: "llama-no-bytes",
        about: "an SPM vocabulary without tokens for single bytes: an exception for the first character that is none",
        build: || renamed(b"<0x", b"<9x"),
    },
    TestModel {
        name: "llama-no-bos",
        about: "texts begin with BOS, and there is none (UGM has none unless the file names it): an assertion",
        build: || {
            let none = u32::MAX.into();
            with_tokenizer(&[("model", "t5".into()), ("bos_token_id", none), ("add_bos_token", true.into())])
        },
    },
    TestModel {
        name: "llama-token-twice",
        about: "a token is listed twice: an assertion while loading",
        build: || renamed(b"<0x41>", b"<0x42>"),
    },
];

fn with_tokenizer(keys: &[(&str, Value)]) -> Vec<u8> {
    let mut model = ModelFile::new("llama", llama::VOCAB);
    for (key, value) in keys {
        model.set(&format!("tokenizer.ggml.{key}"), value.clone());
    }
    llama::build_from(model)
}

/// llama with other bytes of the same number wherever these are.
fn renamed(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = llama::build();
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

fn poisoned(tensor: &'static str, index: u64, value: f32) -> Vec<u8> {
    let mut model = ModelFile::new("llama", llama::VOCAB);
    model.poison(tensor, index, value);
    llama::build_from(model)
}

/// The first `part` of `of` parts of a file.
pub fn truncated(mut bytes: Vec<u8>, part: usize, of: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() / of * part);
    bytes
}
