//! Recurrent: a state instead of attention. Activations come in three dimensions (a matrix a sequence).

use super::{Bias, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Bpe("gpt-2");
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER: u32 = 3;
const N_EMBD: u64 = 64;
/// Twice `n_embd`: llama.cpp takes no other.
const D_INNER: u64 = 128;
const D_STATE: u64 = 16;
const D_CONV: u64 = 4;
const DT_RANK: u64 = 4;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("mamba", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_LAYER);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", 0u32);
    model.hparam("attention.head_count", 0u32);
    model.hparam("attention.layer_norm_rms_epsilon", 1e-5f32);
    model.hparam("ssm.conv_kernel", D_CONV as u32);
    model.hparam("ssm.inner_size", D_INNER as u32);
    model.hparam("ssm.state_size", D_STATE as u32);
    model.hparam("ssm.time_step_rank", DT_RANK as u32);

    model.tensors("", &[("token_embd.weight", Weight, &[N_EMBD, N_VOCAB]), ("output_norm.weight", Norm, &[N_EMBD])]);
    for layer in 0..N_LAYER {
        let prefix = format!("blk.{layer}.");
        model.tensors(
            &prefix,
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("ssm_in.weight", Weight, &[N_EMBD, 2 * D_INNER]),
                ("ssm_conv1d.weight", Weight, &[D_CONV, D_INNER]),
                ("ssm_conv1d.bias", Bias, &[D_INNER]),
                ("ssm_x.weight", Weight, &[D_INNER, DT_RANK + 2 * D_STATE]),
                ("ssm_dt.weight", Weight, &[DT_RANK, D_INNER]),
                ("ssm_dt.bias", Bias, &[D_INNER]),
                ("ssm_d", Norm, &[D_INNER]),
                ("ssm_out.weight", Weight, &[D_INNER, N_EMBD]),
            ],
        );
        // The decay of each part of the state: -1, -2, … as Mamba starts its training.
        model.tensor(&format!("{prefix}ssm_a"), &[D_STATE, D_INNER], |i, _| -((i % D_STATE + 1) as f32));
    }
    model.into_bytes()
}
