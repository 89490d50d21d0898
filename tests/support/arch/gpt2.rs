//! Learned positions (1024 of them: no longer context), one matrix for q, k and v, layer norms with biases.

use super::{Bias, ModelFile, Norm, Vocab, Weight, WeightF16};

const VOCAB: Vocab = Vocab::Bpe("gpt-2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_CTX: u64 = 1024;
const N_LAYER: u32 = 2;
const N_EMBD: u64 = 64;
const N_FF: u64 = 256;
const N_HEAD: u64 = 4;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("gpt2", VOCAB);
    model.hparam("context_length", N_CTX as u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.layer_norm_epsilon", 1e-5f32);

    model.tensors(
        "",
        &[
            ("token_embd.weight", Weight, &[N_EMBD, N_VOCAB]),
            ("position_embd.weight", WeightF16, &[N_EMBD, N_CTX]),
            ("output_norm.weight", Norm, &[N_EMBD]),
            ("output_norm.bias", Bias, &[N_EMBD]),
        ],
    );
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_norm.bias", Bias, &[N_EMBD]),
                ("attn_qkv.weight", Weight, &[N_EMBD, 3 * N_EMBD]),
                ("attn_qkv.bias", Bias, &[3 * N_EMBD]),
                ("attn_output.weight", Weight, &[N_EMBD, N_EMBD]),
                ("attn_output.bias", Bias, &[N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_norm.bias", Bias, &[N_EMBD]),
                ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_up.bias", Bias, &[N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
                ("ffn_down.bias", Bias, &[N_EMBD]),
            ],
        );
    }
    model.into_bytes()
}
