//! The numbers of a model that its mixes depend on.

use crate::gguf::{Array, File, Value};

/// Largest number of layers that llama.cpp accepts.
const MAX_LAYERS: u32 = 512;

/// The hyperparameters that a mix depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hparams {
    /// `general.architecture`.
    pub arch: String,
    /// Number of layers, `NextN` layers and repetitions included (`n_layer_all`).
    pub n_layer: u32,
    /// Number of `NextN` layers, which are the last layers.
    pub n_layer_nextn: u32,
    /// Number of routed experts per layer; 0 for a dense model.
    pub n_expert: u32,
    /// Attention heads per key/value head in the first layer; 0 without attention.
    pub n_gqa: u32,
    /// True for the models that llama.cpp calls 70B: their `attn_v` is small and gets more bits.
    pub is_70b: bool,
}

impl Hparams {
    /// Reads them from a model file, the first of a split model.
    #[must_use]
    pub fn of(file: &File<'_>) -> Self {
        let arch = file.get("general.architecture").and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| file.get(&format!("{arch}.{key}")).and_then(Value::as_u32);
        let first = |key: &str| file.get(&format!("{arch}.{key}")).and_then(first_number);
        let n_block = number("block_count").unwrap_or(0).min(MAX_LAYERS);
        let n_nextn = number("nextn_predict_layers").unwrap_or(0).min(n_block);
        let mut n_expert = number("expert_count").unwrap_or(0);
        if matches!(arch.as_str(), "hunyuan_vl" | "hunyuan-dense") && n_expert <= 1 {
            n_expert = 0;
        }
        let n_head = first("attention.head_count").unwrap_or(0);
        let n_head_kv = first("attention.head_count_kv").unwrap_or(n_head);
        let n_trunk = n_block - n_nextn;
        let (n_layer, n_layer_nextn) = match arch.as_str() {
            // The layers run several times.
            "nanbeige" => {
                let loops = number("num_loops").unwrap_or(1).max(1);
                (if loops > 1 { n_trunk.saturating_mul(loops).min(MAX_LAYERS) } else { n_block }, n_nextn)
            }
            // One more layer, for the router.
            "graniteswitch" => (n_trunk + 1, 1),
            _ => (n_block, n_nextn),
        };
        let is_70b = match arch.as_str() {
            "llama" | "llama-embed" => n_trunk == 80 && n_expert != 8 && n_head != n_head_kv,
            "qwen2" | "deci" | "olmo" => n_trunk == 80,
            "jais2" => n_trunk == 68,
            _ => false,
        };
        Self { arch, n_layer, n_layer_nextn, n_expert, n_gqa: n_head.checked_div(n_head_kv).unwrap_or(0), is_70b }
    }

    /// Returns the first `NextN` layer; `None` if there is none.
    #[must_use]
    pub fn first_nextn(&self) -> Option<u32> {
        (self.n_layer_nextn > 0).then(|| self.n_layer.saturating_sub(self.n_layer_nextn))
    }
}

/// Returns a number, or the first of an array of numbers: some keys have one per layer.
fn first_number(value: &Value) -> Option<u32> {
    match value {
        Value::U32(n) => Some(*n),
        Value::I32(n) => u32::try_from(*n).ok(),
        Value::Array(Array::U32(all)) => all.first().copied(),
        Value::Array(Array::I32(all)) => all.first().and_then(|&n| u32::try_from(n).ok()),
        _ => None,
    }
}
