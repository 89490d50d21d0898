//! The mix behind a file type: the type of each tensor by its role, its layer and the model.

use super::category::Category;
use super::{FileType, Hparams, RuleError, TensorInfo};
use crate::gguf::DType;

/// Walks the tensors in order. The type of some tensors depends on how many of their kind came before.
pub(super) struct Selector<'a> {
    pub(super) hparams: &'a Hparams,
    file_type: FileType,
    has_matrix: bool,
    /// True without an output matrix: the token embedding then takes its place.
    tied: bool,
    /// Number of tensors like `attn_v`.
    n_attn_v: u32,
    i_attn_v: u32,
    i_ffn_down: u32,
    i_ffn_gate: u32,
    i_ffn_up: u32,
}

impl<'a> Selector<'a> {
    pub(super) fn new(hparams: &'a Hparams, tensors: &[&TensorInfo], file_type: FileType, has_matrix: bool) -> Self {
        let of = |tensor: &&TensorInfo| Category::of(&tensor.name);
        Self {
            hparams,
            file_type,
            has_matrix,
            tied: tensors.iter().map(of).all(|category| category != Category::Output),
            n_attn_v: tensors.iter().map(of).filter(|category| category.is_attn_v()).count() as u32,
            i_attn_v: 0,
            i_ffn_down: 0,
            i_ffn_gate: 0,
            i_ffn_up: 0,
        }
    }

    /// Selects the type of the next tensor that is quantized.
    pub(super) fn select(&mut self, tensor: &TensorInfo, category: Category) -> Result<DType, RuleError> {
        use FileType as F;
        let default = self.file_type.default_type();
        if self.hparams.arch == "glm5-next" && keeps_q8_0(&tensor.name) {
            return Ok(DType::Q8_0);
        }
        if category == Category::Output || (self.tied && category == Category::TokenEmbd) {
            return Ok(self.output(tensor, default));
        }
        if self.file_type == F::MXFP4_MOE {
            return Ok(self.mxfp4_moe(tensor, category));
        }
        if category == Category::TokenEmbd {
            return Ok(self.token_embd(default));
        }
        if matches!(self.file_type, F::IQ2_XXS | F::IQ2_XS | F::IQ1_S | F::IQ2_S | F::IQ2_M | F::IQ1_M) {
            return Ok(self.smallest(category, default));
        }
        match category {
            Category::AttnV | Category::AttnQkv | Category::AttnKvB => Ok(self.attn_v(default)),
            Category::AttnK if self.hparams.n_expert == 8 => Ok(DType::Q8_0),
            Category::AttnK | Category::AttnQ => Ok(match self.file_type {
                F::IQ3_XS => DType::IQ3_XXS,
                F::IQ3_XXS => DType::IQ2_S,
                _ => default,
            }),
            Category::FfnDown => self.ffn_down(tensor, default),
            Category::AttnOutput => Ok(self.attn_output(default)),
            Category::FfnGate => {
                let layer = self.layer(tensor, self.i_ffn_gate)?;
                self.i_ffn_gate += 1;
                Ok(self.ffn_gate_or_up(layer, default))
            }
            Category::FfnUp => {
                let layer = self.layer(tensor, self.i_ffn_up)?;
                self.i_ffn_up += 1;
                Ok(self.ffn_gate_or_up(layer, default))
            }
            Category::Output | Category::TokenEmbd | Category::Other => Ok(default),
        }
    }

    fn output(&self, tensor: &TensorInfo, default: DType) -> DType {
        use FileType as F;
        let whole_blocks = tensor.shape[0].is_multiple_of(default.block_len());
        match self.file_type {
            F::MXFP4_MOE => DType::Q8_0,
            _ if self.is_falcon() || !whole_blocks => DType::Q8_0,
            F::IQ2_XXS | F::IQ2_XS | F::IQ3_XXS | F::IQ1_S | F::IQ2_S | F::IQ2_M | F::IQ1_M => DType::Q5_K,
            _ if default != DType::Q8_0 => DType::Q6_K,
            _ => default,
        }
    }

    fn mxfp4_moe(&self, tensor: &TensorInfo, category: Category) -> DType {
        let is_ffn = matches!(category, Category::FfnUp | Category::FfnGate | Category::FfnDown);
        let is_expert = tensor.shape[2] > 1 && (self.hparams.arch != "bailingmoe3" || is_ffn);
        if is_expert { DType::MXFP4 } else { DType::Q8_0 }
    }

    fn token_embd(&self, default: DType) -> DType {
        use FileType as F;
        match self.file_type {
            F::IQ2_XXS | F::IQ2_XS | F::IQ1_S | F::IQ1_M => DType::Q2_K,
            F::IQ2_S | F::IQ2_M | F::IQ3_XXS => DType::IQ3_S,
            F::TQ1_0 | F::TQ2_0 | F::Q2_0 => DType::Q4_K,
            _ => default,
        }
    }

    /// The mixes around one and two bits.
    fn smallest(&mut self, category: Category, default: DType) -> DType {
        use FileType as F;
        let n_expert = self.hparams.n_expert;
        let is_two_and_more = matches!(self.file_type, F::IQ2_S | F::IQ2_M);
        let better = if is_two_and_more { DType::IQ3_S } else { DType::Q2_K };
        match category {
            _ if category.is_attn_v() => {
                self.i_attn_v += 1;
                if self.hparams.n_gqa >= 4 || n_expert >= 4 { DType::Q4_K } else { better }
            }
            Category::AttnK if n_expert == 8 => DType::Q4_K,
            Category::FfnDown => {
                let is_early = self.i_ffn_down < self.hparams.n_layer / 8;
                self.i_ffn_down += 1;
                if is_early { better } else { default }
            }
            Category::AttnOutput if n_expert == 8 => DType::Q5_K,
            Category::AttnOutput => match self.file_type {
                F::IQ1_S | F::IQ1_M => DType::IQ2_XXS,
                F::IQ2_S | F::IQ2_M => DType::IQ3_S,
                _ => default,
            },
            _ => default,
        }
    }

    #[expect(clippy::match_same_arms, reason = "llama.cpp's order, to be compared line by line")]
    fn attn_v(&mut self, default: DType) -> DType {
        use FileType as F;
        let gqa = self.hparams.n_gqa >= 4;
        let i = self.i_attn_v;
        self.i_attn_v += 1;
        let mut selected = match self.file_type {
            F::Q2_K => {
                if gqa {
                    DType::Q4_K
                } else {
                    DType::Q3_K
                }
            }
            F::Q2_K_S if gqa => DType::Q4_K,
            F::IQ3_XXS if gqa => DType::Q4_K,
            F::IQ3_XXS => {
                if self.has_matrix {
                    DType::IQ3_XXS
                } else {
                    DType::IQ3_S
                }
            }
            F::IQ3_XS | F::IQ3_S if gqa => DType::Q4_K,
            F::IQ3_M => DType::Q4_K,
            F::Q3_K_M => {
                if i < 2 {
                    DType::Q5_K
                } else {
                    DType::Q4_K
                }
            }
            F::Q3_K_L => DType::Q5_K,
            F::IQ4_NL | F::IQ4_XS if gqa => DType::Q5_K,
            F::Q4_K_M | F::Q5_K_M if more_bits(i, self.n_attn_v) => DType::Q6_K,
            F::Q4_K_S if i < 4 => DType::Q5_K,
            _ => default,
        };
        if self.hparams.is_70b && matches!(selected, DType::Q3_K | DType::Q4_K) {
            selected = DType::Q5_K;
        }
        if self.hparams.n_expert == 8 { DType::Q8_0 } else { selected }
    }

    #[expect(clippy::match_same_arms, reason = "llama.cpp's order, to be compared line by line")]
    fn ffn_down(&mut self, tensor: &TensorInfo, default: DType) -> Result<DType, RuleError> {
        use FileType as F;
        let layer = self.layer(tensor, self.i_ffn_down)?;
        self.i_ffn_down += 1;
        let n = self.hparams.n_layer;
        let is_early = layer < n / 8;
        Ok(match self.file_type {
            F::Q2_K => DType::Q3_K,
            F::Q2_K_S if is_early => DType::Q4_K,
            F::IQ3_XXS if !self.has_matrix => {
                if is_early {
                    DType::Q4_K
                } else {
                    DType::Q3_K
                }
            }
            F::Q3_K_M if layer < n / 16 => DType::Q5_K,
            F::Q3_K_M if !self.is_falcon() || more_bits(layer, n) => DType::Q4_K,
            F::Q3_K_M => DType::Q3_K,
            F::IQ3_M if is_early || (self.hparams.n_expert == 8 && more_bits(layer, n)) => DType::Q4_K,
            F::Q3_K_L => {
                if self.is_falcon() {
                    DType::Q4_K
                } else {
                    DType::Q5_K
                }
            }
            F::Q4_K_M if self.is_falcon() => match () {
                () if layer < n / 16 => DType::Q6_K,
                () if more_bits(layer, n) => DType::Q5_K,
                () => DType::Q4_K,
            },
            F::Q4_K_M | F::Q5_K_M if more_bits(layer, n) => DType::Q6_K,
            F::IQ4_NL | F::IQ4_XS if is_early && !self.has_matrix => DType::Q5_K,
            F::Q4_K_S if is_early && !self.is_falcon() => DType::Q5_K,
            F::Q4_0 if self.has_matrix && is_early => DType::Q4_1,
            F::Q5_0 if self.has_matrix && is_early => DType::Q5_1,
            _ => default,
        })
    }

    fn attn_output(&self, default: DType) -> DType {
        use FileType as F;
        if self.is_falcon() {
            return if self.file_type == F::Q3_K_L { DType::Q4_K } else { default };
        }
        if self.hparams.n_expert == 8 {
            return match self.file_type {
                F::Q2_K
                | F::IQ3_XS
                | F::IQ3_XXS
                | F::Q3_K_S
                | F::Q3_K_M
                | F::IQ4_NL
                | F::Q4_K_S
                | F::Q4_K_M
                | F::IQ3_S
                | F::IQ3_M
                | F::IQ4_XS => DType::Q5_K,
                _ => default,
            };
        }
        match self.file_type {
            F::Q2_K => DType::Q3_K,
            F::IQ3_XXS => DType::IQ3_S,
            F::Q3_K_M | F::IQ3_M => DType::Q4_K,
            F::Q3_K_L => DType::Q5_K,
            _ => default,
        }
    }

    fn ffn_gate_or_up(&self, layer: u32, default: DType) -> DType {
        let n = self.hparams.n_layer;
        let is_middle = layer >= n / 8 && layer < 7 * n / 8;
        if self.file_type == FileType::IQ3_XS && is_middle { DType::IQ3_XXS } else { default }
    }

    /// Returns the layer of a feed-forward tensor: its place among its kind, or with experts the number in its name.
    fn layer(&self, tensor: &TensorInfo, place: u32) -> Result<u32, RuleError> {
        if self.hparams.n_expert <= 1 {
            return Ok(place);
        }
        let layer = tensor.layer().ok_or_else(|| RuleError::NoLayer { tensor: tensor.name.clone() })?;
        if layer >= self.hparams.n_layer {
            return Err(RuleError::Layer { tensor: tensor.name.clone(), layer, n_layer: self.hparams.n_layer });
        }
        Ok(layer)
    }

    fn is_falcon(&self) -> bool {
        self.hparams.arch == "falcon"
    }
}

/// Returns true for the layers that the medium mixes give more bits: the first and last eighth, and every third between.
const fn more_bits(layer: u32, n_layer: u32) -> bool {
    // Signed in llama.cpp; the layer is at least n_layer / 8 where the difference counts.
    layer < n_layer / 8 || layer >= 7 * n_layer / 8 || (layer - n_layer / 8) % 3 == 2
}

fn keeps_q8_0(name: &str) -> bool {
    ["attn_q_a", "attn_q_b", "nextn.eh_proj"].iter().any(|part| name.contains(part))
}

/// Returns the type that is written if `wanted` does not fit rows of this many columns (`tensor_type_fallback`); `None` if
/// there is none.
#[must_use]
pub fn written_type(wanted: DType, columns: u64) -> Option<DType> {
    if columns.is_multiple_of(wanted.block_len()) {
        return Some(wanted);
    }
    let fallback = match wanted {
        DType::IQ1_S
        | DType::IQ1_M
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ3_S
        | DType::IQ4_XS => DType::IQ4_NL,
        DType::Q2_0 | DType::Q2_K | DType::Q3_K | DType::TQ1_0 | DType::TQ2_0 => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        _ if wanted.block_len() <= 32 => DType::F16,
        _ => return None,
    };
    Some(if columns.is_multiple_of(fallback.block_len()) { fallback } else { DType::F16 })
}

/// Returns true if the quantizer of this type reads a matrix. The others round each value to the nearest.
#[must_use]
pub const fn uses_matrix(target: DType) -> bool {
    use DType as T;
    matches!(
        target,
        T::Q4_0
            | T::Q4_1
            | T::Q5_0
            | T::Q5_1
            | T::Q2_K
            | T::Q3_K
            | T::Q4_K
            | T::Q5_K
            | T::Q6_K
            | T::IQ1_S
            | T::IQ1_M
            | T::IQ2_XXS
            | T::IQ2_XS
            | T::IQ2_S
            | T::IQ3_XXS
            | T::IQ3_S
            | T::IQ4_NL
            | T::IQ4_XS
    )
}
