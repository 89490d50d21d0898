//! An encoder for embeddings: no output matrix, no causal mask, no cache; positions are learned.

use super::{Bias, Embedding, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_CTX: u32 = 1024;
const N_LAYER: u32 = 2;
const N_EMBD: u64 = 64;
const N_FF: u64 = 128;
const N_HEAD: u64 = 4;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("bert", VOCAB);
    model.hparam("context_length", N_CTX);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.layer_norm_epsilon", 1e-12f32);
    model.hparam("attention.causal", false);
    model.hparam("pooling_type", 1u32);
    model.set("tokenizer.ggml.token_type_count", 2u32);
    model.set("tokenizer.ggml.add_eos_token", true);

    model.tensors(
        "",
        &[
            ("token_embd.weight", Embedding, &[N_EMBD, N_VOCAB]),
            ("token_types.weight", Embedding, &[N_EMBD, 2]),
            ("position_embd.weight", Embedding, &[N_EMBD, u64::from(N_CTX)]),
            ("token_embd_norm.weight", Norm, &[N_EMBD]),
            ("token_embd_norm.bias", Bias, &[N_EMBD]),
        ],
    );
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_q.weight", Weight, &[N_EMBD, N_EMBD]),
                ("attn_q.bias", Bias, &[N_EMBD]),
                ("attn_k.weight", Weight, &[N_EMBD, N_EMBD]),
                ("attn_k.bias", Bias, &[N_EMBD]),
                ("attn_v.weight", Weight, &[N_EMBD, N_EMBD]),
                ("attn_v.bias", Bias, &[N_EMBD]),
                ("attn_output.weight", Weight, &[N_EMBD, N_EMBD]),
                ("attn_output.bias", Bias, &[N_EMBD]),
                ("attn_output_norm.weight", Norm, &[N_EMBD]),
                ("attn_output_norm.bias", Bias, &[N_EMBD]),
                ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_up.bias", Bias, &[N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
                ("ffn_down.bias", Bias, &[N_EMBD]),
                ("layer_output_norm.weight", Norm, &[N_EMBD]),
                ("layer_output_norm.bias", Bias, &[N_EMBD]),
            ],
        );
    }
    model.into_bytes()
}
