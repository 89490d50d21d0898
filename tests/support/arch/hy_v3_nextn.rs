//! NextN: a dense layer, a layer of routed experts, and a NextN layer of routed experts after them, in one file or two.
//! Whatever file a tensor is in, it has the same values, so that a trunk with its draft is the whole model.

use super::{Bias, Embedding, ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Spm;
const N_VOCAB: u64 = VOCAB.len() as u64;
const N_LAYER_DENSE: u32 = 1;
const N_TRUNK: u32 = 2;
const N_EMBD: u64 = 64;
const N_FF: u64 = 96;
const N_FF_EXPERT: u64 = 32;
const N_EXPERT: u64 = 4;
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const HEAD: u64 = 16;

/// What is in a file, and what its keys say of it.
#[derive(Clone, Copy)]
pub struct Parts {
    pub arch: &'static str,
    pub vocab: Vocab,
    /// Whether the trunk's layers are there.
    pub trunk: bool,
    /// Whether the NextN layer is there.
    pub nextn: bool,
    /// Whether the NextN layer has an output matrix of its own.
    pub own_head: bool,
    /// `nextn_predict_layers`; none to leave the key out.
    pub n_layer_nextn: Option<u32>,
    /// Layers the keys count, those of NextN included.
    pub block_count: u32,
    /// `embedding_length_out`, where it is said.
    pub n_embd_out: Option<u32>,
    /// `split.count`, where it is said.
    pub split: Option<u16>,
}

pub const WHOLE: Parts = Parts {
    arch: "hy_v3",
    vocab: VOCAB,
    trunk: true,
    nextn: true,
    own_head: false,
    n_layer_nextn: Some(1),
    block_count: N_TRUNK + 1,
    n_embd_out: None,
    split: None,
};
pub const TRUNK: Parts = Parts { nextn: false, n_layer_nextn: None, block_count: N_TRUNK, ..WHOLE };
pub const DRAFT: Parts = Parts { trunk: false, ..WHOLE };

impl Parts {
    pub fn build(self) -> Vec<u8> {
        let mut model = ModelFile::new(self.arch, self.vocab);
        model.hparam("context_length", 4096u32);
        model.hparam("block_count", self.block_count);
        if let Some(n) = self.n_layer_nextn {
            model.hparam("nextn_predict_layers", n);
        }
        if let Some(n) = self.n_embd_out {
            model.hparam("embedding_length_out", n);
        }
        if let Some(n) = self.split {
            model.set("split.no", 0u16);
            model.set("split.count", n);
        }
        model.hparam("embedding_length", N_EMBD as u32);
        model.hparam("feed_forward_length", N_FF as u32);
        model.hparam("expert_feed_forward_length", N_FF_EXPERT as u32);
        model.hparam("expert_count", N_EXPERT as u32);
        model.hparam("expert_used_count", 2u32);
        model.hparam("expert_weights_norm", true);
        model.hparam("attention.head_count", N_HEAD as u32);
        model.hparam("attention.head_count_kv", N_HEAD_KV as u32);
        model.hparam("attention.layer_norm_rms_epsilon", 1e-5f32);
        model.hparam("rope.dimension_count", HEAD as u32);

        let n_vocab = self.vocab.len() as u64;
        model.tensors(
            "",
            &[
                ("token_embd.weight", Embedding, &[N_EMBD, n_vocab]),
                ("output_norm.weight", Norm, &[N_EMBD]),
                ("output.weight", Weight, &[N_EMBD, n_vocab]),
            ],
        );
        if self.trunk {
            (0..N_TRUNK).for_each(|layer| block(&mut model, layer));
        }
        if self.nextn {
            block(&mut model, N_TRUNK);
            nextn(&mut model, self.own_head);
        }
        model.into_bytes()
    }
}

fn block(model: &mut ModelFile, layer: u32) {
    let prefix = format!("blk.{layer}.");
    model.tensors(
        &prefix,
        &[
            ("attn_norm.weight", Norm, &[N_EMBD]),
            ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
            ("attn_q_norm.weight", Norm, &[HEAD]),
            ("attn_k.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
            ("attn_k_norm.weight", Norm, &[HEAD]),
            ("attn_v.weight", Weight, &[N_EMBD, N_HEAD_KV * HEAD]),
            ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
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
            &[
                ("ffn_gate_inp.weight", Weight, &[N_EMBD, N_EXPERT]),
                ("exp_probs_b", Bias, &[N_EXPERT]),
                ("ffn_gate_exps.weight", Weight, &[N_EMBD, N_FF_EXPERT, N_EXPERT]),
                ("ffn_up_exps.weight", Weight, &[N_EMBD, N_FF_EXPERT, N_EXPERT]),
                ("ffn_down_exps.weight", Weight, &[N_FF_EXPERT, N_EMBD, N_EXPERT]),
                ("ffn_gate_shexp.weight", Weight, &[N_EMBD, N_FF_EXPERT]),
                ("ffn_up_shexp.weight", Weight, &[N_EMBD, N_FF_EXPERT]),
                ("ffn_down_shexp.weight", Weight, &[N_FF_EXPERT, N_EMBD]),
            ],
        );
    }
}

/// What a NextN layer has besides a layer's tensors: the projection of a token's embedding and a hidden state.
fn nextn(model: &mut ModelFile, own_head: bool) {
    let prefix = format!("blk.{N_TRUNK}.nextn.");
    model.tensors(
        &prefix,
        &[
            ("eh_proj.weight", Weight, &[2 * N_EMBD, N_EMBD]),
            ("enorm.weight", Norm, &[N_EMBD]),
            ("hnorm.weight", Norm, &[N_EMBD]),
            ("shared_head_norm.weight", Norm, &[N_EMBD]),
        ],
    );
    if own_head {
        model.tensors(&prefix, &[("shared_head_head.weight", Weight, &[N_EMBD, N_VOCAB])]);
    }
}
