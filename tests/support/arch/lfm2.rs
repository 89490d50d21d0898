//! Hybrid: short convolutions and, in one layer of four, attention. Embeddings tied to the output.

use super::{ModelFile, Norm, Vocab, Weight};

const VOCAB: Vocab = Vocab::Bpe("gpt-2");
const N_VOCAB: u64 = VOCAB.len() as u64;
/// Key-value heads a layer; a layer of none is a convolution.
const N_HEAD_KV: [u64; 4] = [0, 0, 2, 0];
const N_EMBD: u64 = 64;
const N_FF: u64 = 128;
const N_HEAD: u64 = 4;
const HEAD: u64 = 16;
const D_CONV: u64 = 3;

pub fn build() -> Vec<u8> {
    let mut model = ModelFile::new("lfm2", VOCAB);
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", N_HEAD_KV.len() as u32);
    model.hparam("embedding_length", N_EMBD as u32);
    model.hparam("feed_forward_length", N_FF as u32);
    model.hparam("attention.head_count", N_HEAD as u32);
    model.hparam("attention.head_count_kv", N_HEAD_KV.map(|n| n as i32).to_vec());
    model.hparam("attention.layer_norm_rms_epsilon", 1e-5f32);
    model.hparam("rope.freq_base", 1_000_000f32);
    model.hparam("shortconv.l_cache", D_CONV as u32);

    model.tensors(
        "",
        &[
            ("token_embd.weight", Weight, &[N_EMBD, N_VOCAB]),
            // The final norm: its name is a slip that lfm2's files keep.
            ("token_embd_norm.weight", Norm, &[N_EMBD]),
        ],
    );
    for (layer, n_head_kv) in N_HEAD_KV.into_iter().enumerate() {
        let prefix = format!("blk.{layer}.");
        if n_head_kv == 0 {
            model.tensors(
                &prefix,
                &[
                    ("shortconv.conv.weight", Weight, &[D_CONV, N_EMBD]),
                    ("shortconv.in_proj.weight", Weight, &[N_EMBD, 3 * N_EMBD]),
                    ("shortconv.out_proj.weight", Weight, &[N_EMBD, N_EMBD]),
                ],
            );
        } else {
            model.tensors(
                &prefix,
                &[
                    ("attn_q.weight", Weight, &[N_EMBD, N_HEAD * HEAD]),
                    ("attn_q_norm.weight", Norm, &[HEAD]),
                    ("attn_k.weight", Weight, &[N_EMBD, n_head_kv * HEAD]),
                    ("attn_k_norm.weight", Norm, &[HEAD]),
                    ("attn_v.weight", Weight, &[N_EMBD, n_head_kv * HEAD]),
                    ("attn_output.weight", Weight, &[N_HEAD * HEAD, N_EMBD]),
                ],
            );
        }
        model.tensors(
            &prefix,
            &[
                ("attn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_norm.weight", Norm, &[N_EMBD]),
                ("ffn_gate.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_up.weight", Weight, &[N_EMBD, N_FF]),
                ("ffn_down.weight", Weight, &[N_FF, N_EMBD]),
            ],
        );
    }
    model.into_bytes()
}
