//! Which tensors `llama-quantize` quantizes at all.

/// Parts of the names of tensors that are kept as they are.
const KEPT: [&str; 35] = [
    "_norm.weight",
    // routers, and tables of token ids
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // small matrices
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // T5's relative positions
    "attn_rel_b.weight",
    // images and sound
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same for the architecture `glm5-next`.
const KEPT_GLM5_NEXT: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Names of BERT's positions and token types, which are kept.
const KEPT_NAMES: [&str; 2] = ["position_embd.weight", "token_types.weight"];

/// Returns true if the tensor is quantized: two dimensions or more, a weight, and not one of those kept.
#[must_use]
pub fn allows_quantization(architecture: &str, name: &str, n_dims: usize) -> bool {
    let kept = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    n_dims >= 2
        && name.ends_with("weight")
        && !KEPT_NAMES.contains(&name)
        && !kept(&KEPT)
        && !(architecture == "glm5-next" && kept(&KEPT_GLM5_NEXT))
}
