//! NextN over a hybrid: gated delta net, gated attention with rotary embeddings of several positions (M-RoPE), then the
//! NextN layer, with an attention like the latter's. No BOS.

use super::{Bias, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Bpe("qwen2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_TRUNK: u32 = 2;
const N_EMBD: u64 = 64;
const N_FF: u64 = 96;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 16;
/// The delta net: heads of keys and of values, their width, tokens a convolution sees.
const N_K: u64 = 2;
const N_V: u64 = 4;
const D_STATE: u64 = 16;
const D_CONV: u64 = 4;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("qwen35", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_TRUNK + 1);
    model.hparam("nextn_predict_layers", 1u32);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD_KV as u32);
    model.hparam("attention.key_length", HEAD as u32);
    model.hparam("attention.value_length", HEAD as u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
    model.hparam("full_attention_interval", 2u32);
    model.hparam("rope.dimension_count", HEAD as u32);
    model.hparam("rope.dimension_sections", vec![3i32, 3, 2, 0]);
    model.hparam("rope.freq_base", 1_000_000f32);
    model.hparam("ssm.conv_kernel", D_CONV as u32);
    model.hparam("ssm.inner_size", (N_V * D_STATE) as u32);
    model.hparam("ssm.state_size", D_STATE as u32);
    model.hparam("ssm.time_step_rank", N_V as u32);
    model.hparam("ssm.group_count", N_K as u32);

    model.tensors("", &[("token_embd.weight", Weight, &[N_EMBD, N_VOCAB]), ("output_norm.weight", Norm, &[N_EMBD])]);
    for layer in 0..=N_TRUNK {
        let prefix = format!("blk.{layer}.");
        model.tensors(
            &prefix,
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("post_attention_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
            ],
        );
        if layer == 0 { delta_net(&mut model, &prefix) } else { attention(&mut model, &prefix) }
    }
    model.tensors(
        &format!("blk.{N_TRUNK}.nextn."),
        &[
            ("eh_proj.weight", Weight, &[2 * N_EMBD, N_EMBD]),
            ("enorm.weight", Norm, &[N_EMBD]),
            ("hnorm.weight", Norm, &[N_EMBD]),
            ("shared_head_norm.weight", Norm, &[N_EMBD]),
        ],
    );
    model.into_bytes()
}

fn delta_net(model: &mut ModelFile, prefix: &str) {
    const QKV: u64 = (2 * N_K + N_V) * D_STATE;
    model.tensors(
        prefix,
        &[
            ("attn_qkv.weight", Weight, &[N_EMBD, QKV]),
            ("attn_gate.weight", Weight, &[N_EMBD, N_V * D_STATE]),
            ("ssm_conv1d.weight", Weight, &[D_CONV, QKV]),
            ("ssm_dt.bias", Bias, &[N_V]),
            ("ssm_beta.weight", Weight, &[N_EMBD, N_V]),
            ("ssm_alpha.weight", Weight, &[N_EMBD, N_V]),
            ("ssm_norm.weight", Norm, &[D_STATE]),
            ("ssm_out.weight", Weight, &[N_V * D_STATE, N_EMBD]),
        ],
    );
    model.tensor(&format!("{prefix}ssm_a"), &[N_V], |i, _| -((i + 1) as f32));
}

/// The query's matrix makes its gate too.
fn attention(model: &mut ModelFile, prefix: &str) {
    model.tensors(
        prefix,
        &[
            ("attn_q.weight", Weight, &[N_EMBD, 2 * N_HEAD * HEAD]),
            ("attn_q_norm.weight", Norm, &[HEAD]),
            ("attn_k.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
            ("attn_k_norm.weight", Norm, &[HEAD]),
            ("attn_v.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
            ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
        ],
    );
}
