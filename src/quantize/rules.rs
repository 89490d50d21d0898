//! `llama-quantize`'s rules for a weight and a type, as recipes need them. Their owner is [`mixture`].

use super::Weight;
use crate::gguf::DType;
use crate::mixture;

/// Returns true if `llama-quantize` quantizes the tensor.
#[must_use]
pub fn allows_quantization(architecture: &str, weight: &Weight) -> bool {
    mixture::allows_quantization(architecture, &weight.name, weight.n_dims())
}

/// Returns true if `llama-quantize`, or ggml's quantizer, refuses the type for a weight without an entry in the matrix.
#[must_use]
pub fn requires_entry(name: &str, dtype: DType) -> bool {
    use DType::{IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_XXS};
    match dtype {
        // ggml's quantizers need the importance, whatever llama-quantize allows.
        IQ2_XXS | IQ2_XS | IQ1_S | IQ1_M => true,
        IQ2_S | IQ3_XXS => !is_embedding(name) && name != "output.weight",
        _ => false,
    }
}

/// Returns true for the token embeddings.
#[must_use]
pub fn is_embedding(name: &str) -> bool {
    name == "token_embd.weight" || name == "per_layer_token_embd.weight"
}

/// Returns the name of the preset whose base type this is: `llama-quantize` takes no type without one.
#[must_use]
pub fn preset(dtype: DType) -> &'static str {
    match dtype {
        DType::Q3_K => "Q3_K_M",
        DType::Q4_K => "Q4_K_M",
        DType::Q5_K => "Q5_K_M",
        DType::IQ2_S => "IQ2_M",
        DType::Q2_K => "Q2_K",
        DType::Q6_K => "Q6_K",
        DType::Q4_0 => "Q4_0",
        DType::Q4_1 => "Q4_1",
        DType::Q5_0 => "Q5_0",
        DType::Q5_1 => "Q5_1",
        DType::IQ1_S => "IQ1_S",
        DType::IQ1_M => "IQ1_M",
        DType::IQ2_XXS => "IQ2_XXS",
        DType::IQ2_XS => "IQ2_XS",
        DType::IQ3_XXS => "IQ3_XXS",
        DType::IQ3_S => "IQ3_S",
        DType::IQ4_NL => "IQ4_NL",
        DType::IQ4_XS => "IQ4_XS",
        DType::TQ1_0 => "TQ1_0",
        DType::TQ2_0 => "TQ2_0",
        // With a base type that is not quantized, llama-quantize ignores the types of single tensors.
        _ => "Q8_0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(name: &str, shape: [u64; 4]) -> Weight {
        Weight::new(name, DType::F16, shape, 0)
    }

    #[test]
    fn norms_routers_and_vectors_are_kept() {
        for (name, shape, expected) in [
            ("blk.0.attn_q.weight", [64, 64, 1, 1], true),
            ("blk.0.ffn_up_exps.weight", [64, 32, 8, 1], true),
            ("token_embd.weight", [64, 100, 1, 1], true),
            ("output.weight", [64, 100, 1, 1], true),
            ("blk.0.attn_norm.weight", [64, 1, 1, 1], false),
            ("blk.0.attn_q_norm.weight", [64, 4, 1, 1], false),
            ("blk.0.ffn_gate_inp.weight", [64, 8, 1, 1], false),
            ("blk.0.attn_q.bias", [64, 64, 1, 1], false),
            ("position_embd.weight", [64, 64, 1, 1], false),
            ("blk.0.ssm_conv1d.weight", [4, 64, 1, 1], false),
            ("blk.0.ssm_a", [16, 64, 1, 1], false),
        ] {
            assert_eq!(allows_quantization("llama", &weight(name, shape)), expected, "{name}");
        }
        let small = weight("blk.0.ssm_beta.weight", [64, 64, 1, 1]);
        assert!(allows_quantization("qwen3next", &small) && !allows_quantization("glm5-next", &small));
    }

    #[test]
    fn rows_that_fit_no_block_fall_back_as_in_llama_quantize() {
        for (wanted, columns, expected) in [
            (DType::Q4_K, 512, Some(DType::Q4_K)),
            (DType::Q4_K, 160, Some(DType::Q5_0)),
            (DType::Q6_K, 160, Some(DType::Q8_0)),
            (DType::IQ2_XXS, 160, Some(DType::IQ4_NL)),
            (DType::Q2_K, 160, Some(DType::Q4_0)),
            (DType::Q4_K, 40, Some(DType::F16)),
            (DType::Q8_0, 40, Some(DType::F16)),
            (DType::Q1_0, 160, None),
            (DType::F16, 3, Some(DType::F16)),
        ] {
            assert_eq!(mixture::written_type(wanted, columns), expected, "{wanted} {columns}");
        }
    }
}
