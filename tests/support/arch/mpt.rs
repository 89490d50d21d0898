//! Activation scales (AWQ), which are called `ffn.act` where all other weights of the network begin with `ffn_`. No
//! positions; layer norms; a plain feed-forward network.

use super::{ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 2;
const N_EMBD: u64 = 64;
const N_FF: u64 = 128;
const N_HEAD: u64 = 4;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("mpt", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.layer_norm_epsilon", 1e-5f32);
    model.hparam("attention.max_alibi_bias", 0f32);

    model.tensors("", &[("token_embd.weight", Weight, &[N_EMBD, N_VOCAB]), ("output_norm.weight", Norm, &[N_EMBD])]);
    for layer in 0..N_LAYER {
        model.tensors(
            &format!("blk.{layer}."),
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("attn_qkv.weight", Weight, &[N_EMBD, 3 * N_EMBD]),
                ("attn_output.weight", Weight, &[N_EMBD, N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
                ("ffn.act.scales", Norm, &[N_FF]),
            ],
        );
    }
    model.into_bytes()
}
