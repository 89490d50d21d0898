//! The models' hyperparameters and tensors.

use llama_imatrix::gguf::DType::{self, F16, F32, Q8_0};

use super::file::Fill::{self, Norm, Weight};
use super::file::ModelFile;
use super::vocab::Vocab;

/// Attention in every layer, one feed-forward network or many experts.
struct Transformer {
    arch: &'static str,
    weights: DType,
    vocab: Vocab,
    layers: u32,
    embd: u64,
    ff: u64,
    /// Experts and how many of them a token has; `ff` is then the width of each.
    experts: Option<(u64, u32)>,
    heads: u64,
    kv_heads: u64,
    head: u64,
    /// Norms of each head's queries and keys.
    head_norms: bool,
}

/// 1.1 billion parameters, 0.3 of them in use per token.
const MOE: Transformer = Transformer {
    arch: "qwen3moe",
    weights: Q8_0,
    vocab: Vocab { size: 50_304, pre: "qwen2" },
    layers: 10,
    embd: 1024,
    ff: 512,
    experts: Some((64, 8)),
    heads: 16,
    kv_heads: 4,
    head: 128,
    head_norms: true,
};

/// As Llama-3-8B.
const LLAMA_3_8B: Transformer = Transformer {
    arch: "llama",
    weights: Q8_0,
    vocab: Vocab { size: 128_256, pre: "llama-bpe" },
    layers: 32,
    embd: 4096,
    ff: 14_336,
    experts: None,
    heads: 32,
    kv_heads: 8,
    head: 128,
    head_norms: false,
};

/// As Qwen3-0.6B, but with an output matrix of its own.
pub(crate) fn dense_06b() -> ModelFile {
    Transformer {
        arch: "qwen3",
        weights: Q8_0,
        vocab: Vocab { size: 151_936, pre: "qwen2" },
        layers: 28,
        embd: 1024,
        ff: 3072,
        experts: None,
        heads: 16,
        kv_heads: 8,
        head: 128,
        head_norms: true,
    }
    .build("dense-0.6b")
}

/// 125 million parameters, 49 of them in the embeddings and the output matrix.
pub(crate) fn dense_small() -> ModelFile {
    Transformer {
        arch: "llama",
        weights: F16,
        vocab: Vocab { size: 32_000, pre: "gpt-2" },
        layers: 12,
        embd: 768,
        ff: 2048,
        experts: None,
        heads: 12,
        kv_heads: 4,
        head: 64,
        head_norms: false,
    }
    .build("dense-small")
}

/// 1.1 billion parameters, 0.3 of them in use per token.
pub(crate) fn moe() -> ModelFile {
    MOE.build("moe")
}

/// As Llama-3-8B, with this many of its 32 layers.
pub(crate) fn dense_8b(layers: u32) -> ModelFile {
    Transformer { layers, ..LLAMA_3_8B }.build("dense-8b")
}

/// As Qwen3-30B-A3B, with half of its layers: 15 billion parameters, 1.7 of them in use per token.
pub(crate) fn moe_15b() -> ModelFile {
    Transformer {
        arch: "qwen3moe",
        weights: Q8_0,
        vocab: Vocab { size: 151_936, pre: "qwen2" },
        layers: 24,
        embd: 2048,
        ff: 768,
        experts: Some((128, 8)),
        heads: 32,
        kv_heads: 4,
        head: 128,
        head_norms: true,
    }
    .build("moe-15b")
}

/// Nine layers as those of Llama-3-8B: 2.1 billion parameters.
pub(crate) fn dense_4g() -> ModelFile {
    Transformer { weights: F16, vocab: Vocab { size: 16_384, pre: "gpt-2" }, layers: 9, ..LLAMA_3_8B }.build("dense-4g")
}

/// 4.2 billion parameters, 0.2 of them in use per token.
pub(crate) fn moe_4g() -> ModelFile {
    Transformer { experts: Some((256, 4)), ..MOE }.build("moe-4g")
}

impl Transformer {
    fn build(self, name: &str) -> ModelFile {
        let Self { embd, ff, heads, kv_heads, head, .. } = self;
        let weight = Weight(self.weights);
        let mut model = ModelFile::new(self.arch, name, &self.vocab);
        model.hparam("context_length", 4096u32);
        model.hparam("block_count", self.layers);
        model.hparam("embedding_length", embd as u32);
        model.hparam("feed_forward_length", ff as u32);
        model.hparam("attention.head_count", heads as u32);
        model.hparam("attention.head_count_kv", kv_heads as u32);
        model.hparam("attention.key_length", head as u32);
        model.hparam("attention.value_length", head as u32);
        model.hparam("attention.layer_norm_rms_epsilon", 1e-6f32);
        model.hparam("rope.dimension_count", head as u32);
        if let Some((experts, used)) = self.experts {
            model.hparam("expert_feed_forward_length", ff as u32);
            model.hparam("expert_count", experts as u32);
            model.hparam("expert_used_count", used);
        }

        let vocab = self.vocab.size as u64;
        model.tensors(
            "",
            &[
                ("token_embd.weight", weight, &[embd, vocab]),
                ("output_norm.weight", Norm, &[embd]),
                ("output.weight", weight, &[embd, vocab]),
            ],
        );
        for layer in 0..self.layers {
            let prefix = format!("blk.{layer}.");
            model.tensors(
                &prefix,
                &[
                    ("attn_norm.weight", Norm, &[embd]),
                    ("attn_q.weight", weight, &[embd, heads * head]),
                    ("attn_k.weight", weight, &[embd, kv_heads * head]),
                    ("attn_v.weight", weight, &[embd, kv_heads * head]),
                    ("attn_output.weight", weight, &[heads * head, embd]),
                ],
            );
            if self.head_norms {
                let norms = [("attn_q_norm.weight", Norm, &[head][..]), ("attn_k_norm.weight", Norm, &[head])];
                model.tensors(&prefix, &norms);
            }
            match self.experts {
                Some((experts, _)) => expert_layer(&mut model, &prefix, weight, [embd, ff, experts]),
                None => dense_layer(&mut model, &prefix, weight, [embd, ff]),
            }
        }
        model
    }
}

fn dense_layer(model: &mut ModelFile, prefix: &str, weight: Fill, [embd, ff]: [u64; 2]) {
    model.tensors(
        prefix,
        &[
            ("ffn_norm.weight", Norm, &[embd]),
            ("ffn_gate.weight", weight, &[embd, ff]),
            ("ffn_up.weight", weight, &[embd, ff]),
            ("ffn_down.weight", weight, &[ff, embd]),
        ],
    );
}

fn expert_layer(model: &mut ModelFile, prefix: &str, weight: Fill, [embd, ff, experts]: [u64; 3]) {
    model.tensors(
        prefix,
        &[
            ("ffn_norm.weight", Norm, &[embd]),
            ("ffn_gate_inp.weight", Weight(F32), &[embd, experts]),
            ("ffn_gate_exps.weight", weight, &[embd, ff, experts]),
            ("ffn_up_exps.weight", weight, &[embd, ff, experts]),
            ("ffn_down_exps.weight", weight, &[ff, embd, experts]),
        ],
    );
}

/// As LFM2-350M, with a feed-forward network of little more than half the width.
pub(crate) fn hybrid() -> ModelFile {
    const LAYERS: u32 = 16;
    const ATTENTION: [u32; 6] = [2, 5, 8, 10, 12, 14];
    const HEADS: u64 = 16;
    const KV_HEADS: u64 = 8;
    const HEAD: u64 = 64;
    const EMBD: u64 = HEADS * HEAD;
    const FF: u64 = 2560;
    const CONV: u64 = 3;
    let vocab = Vocab { size: 65_536, pre: "gpt-2" };
    let weight = Weight(F16);

    let mut model = ModelFile::new("lfm2", "hybrid", &vocab);
    // A layer of no key-value heads is a convolution.
    let kv_heads = (0..LAYERS).map(|layer| if ATTENTION.contains(&layer) { KV_HEADS as i32 } else { 0 });
    model.hparam("context_length", 4096u32);
    model.hparam("block_count", LAYERS);
    model.hparam("embedding_length", EMBD as u32);
    model.hparam("feed_forward_length", FF as u32);
    model.hparam("attention.head_count", HEADS as u32);
    model.hparam("attention.head_count_kv", kv_heads.collect::<Vec<i32>>());
    model.hparam("attention.layer_norm_rms_epsilon", 1e-5f32);
    model.hparam("rope.freq_base", 1_000_000f32);
    model.hparam("shortconv.l_cache", CONV as u32);

    let embeddings = ("token_embd.weight", weight, &[EMBD, vocab.size as u64][..]);
    // The final norm: its name is a slip that lfm2's files keep.
    model.tensors("", &[embeddings, ("token_embd_norm.weight", Norm, &[EMBD])]);
    for layer in 0..LAYERS {
        let prefix = format!("blk.{layer}.");
        model.tensors(&prefix, &[("attn_norm.weight", Norm, &[EMBD])]);
        if ATTENTION.contains(&layer) {
            model.tensors(
                &prefix,
                &[
                    ("attn_q.weight", weight, &[EMBD, EMBD]),
                    ("attn_q_norm.weight", Norm, &[HEAD]),
                    ("attn_k.weight", weight, &[EMBD, KV_HEADS * HEAD]),
                    ("attn_k_norm.weight", Norm, &[HEAD]),
                    ("attn_v.weight", weight, &[EMBD, KV_HEADS * HEAD]),
                    ("attn_output.weight", weight, &[EMBD, EMBD]),
                ],
            );
        } else {
            model.tensors(
                &prefix,
                &[
                    ("shortconv.conv.weight", Weight(F32), &[CONV, EMBD]),
                    ("shortconv.in_proj.weight", weight, &[EMBD, 3 * EMBD]),
                    ("shortconv.out_proj.weight", weight, &[EMBD, EMBD]),
                ],
            );
        }
        dense_layer(&mut model, &prefix, weight, [EMBD, FF]);
    }
    model
}
