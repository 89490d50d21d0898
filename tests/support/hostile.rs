//! Models that must end in a clear error, never in a crash or a wrong file.

use super::TestModel;
use super::arch::llama;
use super::model::ModelFile;

/// The token whose embedding is NaN in `llama-nan-token`: the first byte of `text::LATE`, after three special tokens.
const LATE_TOKEN: u64 = 3 + 0xd0;

/// llama with one bad weight, or cut short.
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
];

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
