//! MLA: `attn_k_b` and `attn_v_b` have a matrix a head. A dense layer first, then a shared expert beside the routed ones,
//! chosen by sigmoid with a bias; no groups of experts.

use super::{Bias, Embedding, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 3;
const N_LAYER_DENSE: u32 = 1;
const N_EMBD: u64 = 64;
const N_FF: u64 = 96;
const N_FF_EXPERT: u64 = 32;
const N_EXPERT: u64 = 6;
const N_HEAD: u64 = 4;
const Q_LORA: u64 = 40;
const KV_LORA: u64 = 32;
/// A head's key: a part without position, a part with.
const NOPE: u64 = 16;
const ROPE: u64 = 8;
const VALUE: u64 = 16;
/// `expert_gating_func`: 1 is softmax, 2 is sigmoid.
const SIGMOID: u32 = 2;

pub fn build() -> Vec<u8> {
    with_experts(false)
}

/// The same with gate and up of the experts in one matrix.
pub fn build_fused() -> Vec<u8> {
    with_experts(true)
}

fn with_experts(fused: bool) -> Vec<u8> {
    let mut model = ModelFile::new("deepseek2", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("leading_dense_block_count", N_LAYER_DENSE);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("expert_feed_forward_length", N_FF_EXPERT as u32);
    model.hparam("expert_count", N_EXPERT as u32);
    model.hparam("expert_used_count", 2u32);
    model.hparam("expert_shared_count", 1u32);
    model.hparam("expert_weights_scale", 1.5f32);
    model.hparam("expert_weights_norm", true);
    model.hparam("expert_gating_func", SIGMOID);
    // After absorption one compressed key and value serves all heads.
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", 1u32);
    model.hparam("attention.q_lora_rank", Q_LORA as u32);
    model.hparam("attention.kv_lora_rank", KV_LORA as u32);
    model.hparam("attention.key_length", (KV_LORA + ROPE) as u32);
    model.hparam("attention.value_length", KV_LORA as u32);
    model.hparam("attention.key_length_mla", (NOPE + ROPE) as u32);
    model.hparam("attention.value_length_mla", VALUE as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
    model.hparam("rope.dimension_count", ROPE as u32);

    model.tensors(
        "",
        &[
            ("token_embd.weight", Embedding, &[N_EMBD, N_VOCAB]),
            ("output_norm.weight", Norm, &[N_EMBD]),
            ("output.weight", Weight, &[N_EMBD, N_VOCAB]),
        ],
    );
    for layer in 0..N_LAYER {
        let prefix = format!("blk.{layer}.");
        model.tensors(
            &prefix,
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q_a.weight", Weight, &[N_EMBD, Q_LORA]),
                ("attn_q_a_norm.weight", Norm, &[Q_LORA]),
                ("attn_q_b.weight", Weight, &[Q_LORA, N_HEAD * (NOPE + ROPE)]),
                ("attn_kv_a_mqa.weight", Weight, &[N_EMBD, KV_LORA + ROPE]),
                ("attn_kv_a_norm.weight", Norm, &[KV_LORA]),
                ("attn_k_b.weight", Weight, &[NOPE, KV_LORA, N_HEAD]),
                ("attn_v_b.weight", Weight, &[KV_LORA, VALUE, N_HEAD]),
                ("attn_output.weight", Weight, &[N_HEAD * VALUE, N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
            ],
        );
        if layer < N_LAYER_DENSE {
            model.tensors(
                &prefix,
                &[
                    ("ffn_gate.weight", Weight, &[N_EMBD, N_FF]),
                    ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                    ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
                ],
            );
        } else {
            model.tensors(
                &prefix,
                &[("ffn_gate_inp.weight", Weight, &[N_EMBD, N_EXPERT]), ("exp_probs_b.bias", Bias, &[N_EXPERT])],
            );
            if fused {
                model.tensors(&prefix, &[("ffn_gate_up_exps.weight", Weight, &[N_EMBD, 2 * N_FF_EXPERT, N_EXPERT])]);
            } else {
                model.tensors(
                    &prefix,
                    &[
                        ("ffn_gate_exps.weight", Weight, &[N_EMBD, N_FF_EXPERT, N_EXPERT]),
                        ("ffn_up_exps.weight", Weight, &[N_EMBD, N_FF_EXPERT, N_EXPERT]),
                    ],
                );
            }
            model.tensors(
                &prefix,
                &[
                    ("ffn_down_exps.weight", Weight, &[N_FF_EXPERT, N_EMBD, N_EXPERT]),
                    ("ffn_gate_shexp.weight", Weight, &[N_EMBD, N_FF_EXPERT]),
                    ("ffn_up_shexp.weight", Weight, &[N_EMBD, N_FF_EXPERT]),
                    ("ffn_down_shexp.weight", Weight, &[N_FF_EXPERT, N_EMBD]),
                ],
            );
        }
    }
    model.into_bytes()
}
