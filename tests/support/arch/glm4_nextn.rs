//! A NextN layer that llama.cpp knows the tensors of and does not evaluate.

use super::{Embedding, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Bpe("qwen2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_TRUNK: u32 = 1;
const N_EMBD: u64 = 64;
const N_FF: u64 = 96;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 16;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("glm4", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_TRUNK + 1);
    model.hparam("nextn_predict_layers", 1u32);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
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
    for layer in 0..=N_TRUNK {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_k.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_v.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
                ("post_attention_norm.weight", Norm, &[N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_up.weight", Weight, &[N_EMBD, 2 * N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
                ("post_ffw_norm.weight", Norm, &[N_EMBD]),
            ],
        );
    }
    model.tensors(
        &format!("blk.{N_TRUNK}.nextn."),
        &[
            ("eh_proj.weight", Weight, &[2 * N_EMBD, N_EMBD]),
            ("enorm.weight", Norm, &[N_EMBD]),
            ("hnorm.weight", Norm, &[N_EMBD]),
        ],
    );
    model.into_bytes()
}
