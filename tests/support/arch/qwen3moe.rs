//! Routed experts, two of eight a token; one of them is never routed to. Experts in f16, heads wider than `n_embd`,
//! no BOS.

use super::{ModelFile, Norm, Vocab, Weight, WeightF16};

const VOCAB: Vocab = Vocab::Bpe("qwen2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 3;
const N_EMBD: u64 = 64;
const N_FF: u64 = 32;
const N_EXPERT: u64 = 8;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 32;

/// The expert that gets no token, and its layer.
pub const DEAD_LAYER: u32 = 1;
pub const DEAD_EXPERT: u64 = 5;

/// Every token's embedding is large and positive in this channel, as trained models' are in some; no layer undoes it.
const STEADY_CHANNEL: u64 = 0;
const STEADY: f32 = 6.0;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("qwen3moe", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", 2 * N_FF as u32);
    model.hparam("expert_feed_forward_length", N_FF as u32);
    model.hparam("expert_count", N_EXPERT as u32);
    model.hparam("expert_used_count", 2u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD_KV as u32);
    model.hparam("attention.key_length", HEAD as u32);
    model.hparam("attention.value_length", HEAD as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
    model.hparam("rope.freq_base", 1_000_000f32);

    model.tensor("token_embd.weight", &[N_EMBD, N_VOCAB], |i, x| if i % N_EMBD == STEADY_CHANNEL { STEADY } else { x });
    model.tensors("", &[("output_norm.weight", Norm, &[N_EMBD]), ("output.weight", Weight, &[N_EMBD, N_VOCAB])]);
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
                ("attn_q_norm.weight", Norm, &[HEAD]),
                ("attn_k.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_k_norm.weight", Norm, &[HEAD]),
                ("attn_v.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
                ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate_exps.weight", WeightF16, &[N_EMBD, N_FF, N_EXPERT]),
                ("ffn_up_exps.weight", WeightF16, &[N_EMBD, N_FF, N_EXPERT]),
                ("ffn_down_exps.weight", WeightF16, &[N_FF, N_EMBD, N_EXPERT]),
            ],
        );
        router(&mut model, layer);
    }
    model.into_bytes()
}

/// Rows of deviation `1/sqrt(n_embd)` that leave the steady channel alone, but the dead expert's: it reads that channel
/// only, and the other way round, so that its logit is far below all others whatever the token.
fn router(model: &mut ModelFile, layer: u32) {
    model.tensor(&format!("blk.{layer}.ffn_gate_inp.weight"), &[N_EMBD, N_EXPERT], |i, x| {
        let (expert, channel) = (i / N_EMBD, i % N_EMBD);
        let dead = layer == DEAD_LAYER && expert == DEAD_EXPERT;
        match (dead, channel == STEADY_CHANNEL) {
            (true, true) => -8.0,
            (false, false) => x / (N_EMBD as f32).sqrt(),
            _ => 0.0,
        }
    });
}
