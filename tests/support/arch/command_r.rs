//! A parallel block: attention and feed-forward network read the same norm, and both are added to its input. Layer norms,
//! a scale on the logits, tied embeddings.

use super::{Embedding, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 2;
const N_EMBD: u64 = 64;
const N_FF: u64 = 160;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 16;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("command-r", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD_KV as u32);
    model.hparam("attention.layer_norm_epsilon", 1e-5f32);
    model.hparam("rope.dimension_count", HEAD as u32);
    model.hparam("logit_scale", 0.25f32);

    model.tensors("", &[("token_embd.weight", Embedding, &[N_EMBD, N_VOCAB]), ("output_norm.weight", Norm, &[N_EMBD])]);
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_k.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_v.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
                ("ffn_gate.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
            ],
        );
    }
    model.into_bytes()
}
