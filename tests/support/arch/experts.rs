//! Models of two to four layers whose experts differ in their operations: biases, one matrix for gate and up, other activations,
//! weighted inputs, scales. All in f32.

use super::{Bias, Embedding, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 2;
/// Every fourth layer of llama4 has no rotary positions. llama.cpp aborts if there is none: an input of its graph is unused.
const N_LAYER_LLAMA4: u32 = 4;
const N_EMBD: u64 = 64;
const N_FF: u64 = 32;
const N_EXPERT: u64 = 6;
const N_USED: u32 = 2;
const N_HEAD: u64 = 4;
const HEAD: u64 = 16;

fn start(arch: &'static str, n_layer: u32) -> ModelFile {
    let mut model = ModelFile::new(arch, VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", n_layer);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("expert_feed_forward_length", N_FF as u32);
    model.hparam("expert_count", N_EXPERT as u32);
    model.hparam("expert_used_count", N_USED);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD as u32);
    model.hparam("attention.key_length", HEAD as u32);
    model.hparam("attention.value_length", HEAD as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
    model.hparam("rope.dimension_count", HEAD as u32);
    model.tensors(
        "",
        &[
            ("token_embd.weight", Embedding, &[N_EMBD, N_VOCAB]),
            ("output_norm.weight", Norm, &[N_EMBD]),
            ("output.weight", Weight, &[N_EMBD, N_VOCAB]),
        ],
    );
    model
}

/// Attention of a layer.
fn attention(model: &mut ModelFile, prefix: &str) {
    model.tensors(
        prefix,
        &[
            ("attn_norm.weight", Norm, &[N_EMBD]),
            ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
            ("attn_k.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
            ("attn_v.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
            ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
            ("ffn_gate_inp.weight", Weight, &[N_EMBD, N_EXPERT]),
        ],
    );
}

fn experts(model: &mut ModelFile, prefix: &str) {
    model.tensors(
        prefix,
        &[
            ("ffn_gate_exps.weight", Weight, &[N_EMBD, N_FF, N_EXPERT]),
            ("ffn_up_exps.weight", Weight, &[N_EMBD, N_FF, N_EXPERT]),
            ("ffn_down_exps.weight", Weight, &[N_FF, N_EMBD, N_EXPERT]),
        ],
    );
}

fn layers(model: &mut ModelFile, n_layer: u32, mut layer: impl FnMut(&mut ModelFile, &str)) {
    for number in 0..n_layer {
        layer(model, &format!("blk.{number}."));
    }
}

/// Biases, and the activation of gpt-oss.
pub fn gpt_oss() -> Vec<u8> {
    let mut model = start("gpt-oss", N_LAYER);
    model.hparam("attention.sliding_window", 48u32);
    layers(&mut model, N_LAYER, |model, prefix| {
        attention(model, prefix);
        experts(model, prefix);
        model.tensors(
            prefix,
            &[
                ("post_attention_norm.weight", Norm, &[N_EMBD]),
                ("attn_sinks.weight", Bias, &[N_HEAD]),
                ("attn_output.bias", Bias, &[N_EMBD]),
                ("ffn_gate_inp.bias", Bias, &[N_EXPERT]),
                ("ffn_gate_exps.bias", Bias, &[N_FF, N_EXPERT]),
                ("ffn_up_exps.bias", Bias, &[N_FF, N_EXPERT]),
                ("ffn_down_exps.bias", Bias, &[N_EMBD, N_EXPERT]),
            ],
        );
    });
    model.into_bytes()
}

/// The activation is a rectifier, and the router reads the input of attention.
pub fn smallthinker() -> Vec<u8> {
    let mut model = start("smallthinker", N_LAYER);
    model.hparam("expert_gating_func", 2u32);
    layers(&mut model, N_LAYER, |model, prefix| {
        attention(model, prefix);
        experts(model, prefix);
        model.tensors(prefix, &[("ffn_norm.weight", Norm, &[N_EMBD])]);
    });
    model.into_bytes()
}

/// The router's weights multiply the experts' inputs, so each slot has its row. A shared expert.
pub fn llama4() -> Vec<u8> {
    let mut model = start("llama4", N_LAYER_LLAMA4);
    model.hparam("interleave_moe_layer_step", 1u32);
    layers(&mut model, N_LAYER_LLAMA4, |model, prefix| {
        attention(model, prefix);
        experts(model, prefix);
        model.tensors(
            prefix,
            &[
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate_shexp.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_up_shexp.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_down_shexp.weight", Weight, &[N_FF, N_EMBD]),
            ],
        );
    });
    model.into_bytes()
}

/// A scale per expert on each product.
pub fn scaled() -> Vec<u8> {
    let mut model = start("qwen3moe", N_LAYER);
    layers(&mut model, N_LAYER, |model, prefix| {
        attention(model, prefix);
        experts(model, prefix);
        model.tensors(
            prefix,
            &[
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("attn_q_norm.weight", Norm, &[HEAD]),
                ("attn_k_norm.weight", Norm, &[HEAD]),
                ("ffn_gate_exps.scale", Norm, &[N_EXPERT]),
                ("ffn_up_exps.scale", Norm, &[N_EXPERT]),
                ("ffn_down_exps.scale", Norm, &[N_EXPERT]),
            ],
        );
    });
    model.into_bytes()
}
