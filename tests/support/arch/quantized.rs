//! A model in K-quants, with experts: rows of 256 values, the smallest that they have. ggml repacks `Q4_K` weights.

use super::{Embedding, Fill, ModelFile, Norm, Vocab, Weight, WeightQ4K, WeightQ5K, WeightQ6K};

const VOCAB: Vocab = Vocab::Bpe("qwen2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 2;
const N_EMBD: u64 = 256;
const N_FF: u64 = 256;
const WIDE_FF: u64 = 60 * 256;
const N_EXPERT: u64 = 8;
const N_HEAD: u64 = 4;
const HEAD: u64 = 64;

pub fn build() -> Vec<u8> {
    build_with(N_FF, [WeightQ4K, WeightQ5K, WeightQ6K])
}

/// The same with experts so wide that their weights, all of which ggml repacks, can be larger than the memory of a run.
pub fn build_wide() -> Vec<u8> {
    build_with(WIDE_FF, [WeightQ4K; 3])
}

fn build_with(n_ff: u64, [gate, up, down]: [Fill; 3]) -> Vec<u8> {
    let mut model = ModelFile::new("qwen3moe", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", 2 * n_ff as u32);
    model.hparam("expert_feed_forward_length", n_ff as u32);
    model.hparam("expert_count", N_EXPERT as u32);
    model.hparam("expert_used_count", 2u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD as u32);
    model.hparam("attention.key_length", HEAD as u32);
    model.hparam("attention.value_length", HEAD as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
    model.hparam("rope.freq_base", 1_000_000f32);

    model.tensors(
        "",
        &[
            ("token_embd.weight", Embedding, &[N_EMBD, N_VOCAB]),
            ("output_norm.weight", Norm, &[N_EMBD]),
            ("output.weight", WeightQ6K, &[N_EMBD, N_VOCAB]),
        ],
    );
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q.weight", WeightQ4K, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_q_norm.weight", Norm, &[HEAD]),
                ("attn_k.weight", WeightQ5K, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_k_norm.weight", Norm, &[HEAD]),
                ("attn_v.weight", WeightQ6K, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_output.weight", WeightQ4K, &[N_HEAD * HEAD, N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate_inp.weight", Weight, &[N_EMBD, N_EXPERT]),
                ("ffn_gate_exps.weight", gate, &[N_EMBD, n_ff, N_EXPERT]),
                ("ffn_up_exps.weight", up, &[N_EMBD, n_ff, N_EXPERT]),
                ("ffn_down_exps.weight", down, &[n_ff, N_EMBD, N_EXPERT]),
            ],
        );
    }
    model.into_bytes()
}
