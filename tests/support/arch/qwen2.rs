//! Dense with biases, in three formats: attention in f16, the feed-forward block and the output matrix in `Q8_0`.

use super::{Bias, ModelFile, Norm, Vocab, WeightF16, WeightQ8};

const VOCAB: Vocab = Vocab::Bpe("qwen2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 2;
const N_EMBD: u64 = 128;
const N_FF: u64 = 192;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 32;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("qwen2", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD_KV as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
    model.hparam("rope.freq_base", 1_000_000f32);

    model.tensors(
        "",
        &[
            ("token_embd.weight", WeightF16, &[N_EMBD, N_VOCAB]),
            ("output_norm.weight", Norm, &[N_EMBD]),
            ("output.weight", WeightQ8, &[N_EMBD, N_VOCAB]),
            ("output.bias", Bias, &[N_VOCAB]),
        ],
    );
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q.weight", WeightF16, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_q.bias", Bias, &[N_HEAD * HEAD]),
                ("attn_k.weight", WeightF16, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_k.bias", Bias, &[N_HEAD_KV * HEAD]),
                ("attn_v.weight", WeightF16, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_v.bias", Bias, &[N_HEAD_KV * HEAD]),
                ("attn_output.weight", WeightF16, &[N_HEAD * HEAD, N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate.weight", WeightQ8, &[N_EMBD, N_FF]),
                ("ffn_up.weight", WeightQ8, &[N_EMBD, N_FF]),
                ("ffn_down.weight", WeightQ8, &[N_FF, N_EMBD]),
            ],
        );
    }
    model.into_bytes()
}
