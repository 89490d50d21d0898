//! Dense, f32: grouped heads, three layers (so that a layer has one before it), an output matrix of its own, BOS.

use super::{Embedding, ModelFile, Norm, Vocab, Weight};

pub const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 3;
pub const N_EMBD: u64 = 64;
const N_FF: u64 = 160;
/// Makes weights of 138 MiB.
const WIDE_FF: u64 = 62_000;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 16;

pub fn build() -> Vec<u8> {
    build_from(ModelFile::new("llama", VOCAB))
}

/// The same with a feed-forward network so wide that the weights can be larger than the memory of a run.
pub fn build_wide() -> Vec<u8> {
    build_of_width(ModelFile::new("llama", VOCAB), WIDE_FF)
}

/// The same model from a file in which something may be poisoned.
pub fn build_from(model: ModelFile) -> Vec<u8> {
    build_of_width(model, N_FF)
}

fn build_of_width(mut model: ModelFile, n_ff: u64) -> Vec<u8> {
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", n_ff as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD_KV as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-5f32);
    model.hparam("rope.dimension_count", HEAD as u32);

    model.tensors(
        "",
        &[
            ("token_embd.weight", Embedding, &[N_EMBD, N_VOCAB]),
            ("output_norm.weight", Norm, &[N_EMBD]),
            ("output.weight", Weight, &[N_EMBD, N_VOCAB]),
        ],
    );
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_k.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_v.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate.weight", Weight, &[N_EMBD, n_ff]),
                ("ffn_up.weight", Weight, &[N_EMBD, n_ff]),
                ("ffn_down.weight", Weight, &[n_ff, N_EMBD]),
            ],
        );
    }
    model.into_bytes()
}
