//! The plan of a quantization: a target type per tensor.

use std::collections::BTreeMap;

use super::allows::allows_quantization;
use super::category::{Category, is_token_embd};
use super::select::{Selector, written_type};
use super::{FileType, Hparams};
use crate::gguf::{DType, MAX_DIMS};

/// A tensor of a model, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Type in the model file.
    pub dtype: DType,
    /// Number of elements per dimension, innermost first.
    pub shape: [u64; MAX_DIMS],
}

impl TensorInfo {
    /// Returns the number of dimensions up to the last that is not 1.
    #[must_use]
    pub fn n_dims(&self) -> usize {
        self.shape.iter().rposition(|&n| n != 1).map_or(1, |last| last + 1)
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, &n| product.saturating_mul(n))
    }

    /// Returns the layer in a name such as `blk.3.attn_q.weight`.
    #[must_use]
    pub fn layer(&self) -> Option<u32> {
        self.name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
    }
}

/// Types for tensors by name, as `--tensor-type` sets them.
pub type Overrides = BTreeMap<String, DType>;

/// The target of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The tensor.
    pub tensor: TensorInfo,
    /// Type in the quantized file.
    pub target: DType,
    /// True if `llama-quantize` does not write this type without a matrix for the tensor.
    pub requires_matrix: bool,
}

impl Planned {
    /// Returns true if the tensor is converted. Otherwise it is copied, and a matrix is not read for it.
    #[must_use]
    pub fn is_converted(&self) -> bool {
        self.tensor.dtype != self.target
    }
}

/// The targets of all tensors, in the order in which `llama-quantize` writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tensors: those outside the layers first, then by layer, by name within.
    pub tensors: Vec<Planned>,
}

/// A reason why `llama-quantize` has no target for a tensor and stops, whatever the matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The tensor's rows do not consist of whole blocks, and no other type is defined for this case.
    #[error("'{tensor}' has rows of {row} elements, {target} needs a multiple of {}, and no fallback is defined", target.block_len())]
    NoFallback {
        /// The tensor.
        tensor: String,
        /// Length of its rows.
        row: u64,
        /// The type.
        target: DType,
    },
    /// A model with experts whose feed-forward tensor has no layer in its name.
    #[error("'{tensor}' has no layer in its name")]
    NoLayer {
        /// The tensor.
        tensor: String,
    },
    /// A layer number that is not below the number of layers.
    #[error("'{tensor}' has layer {layer}, expected a number below {n_layer}")]
    Layer {
        /// The tensor.
        tensor: String,
        /// Layer number.
        layer: u32,
        /// Number of layers.
        n_layer: u32,
    },
}

impl Plan {
    /// Plans a quantization. `has_matrix` says whether `--imatrix` is given: some mixes depend on it.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn new(
        hparams: &Hparams,
        tensors: &[TensorInfo],
        file_type: FileType,
        has_matrix: bool,
        overrides: &Overrides,
    ) -> Result<Self, RuleError> {
        let mut ordered: Vec<&TensorInfo> = tensors.iter().collect();
        ordered.sort_by(|a, b| (a.layer(), &a.name).cmp(&(b.layer(), &b.name)));
        let mut selector = Selector::new(hparams, &ordered, file_type, has_matrix);
        let mut planned = Vec::with_capacity(ordered.len());
        for tensor in ordered {
            let target = target(&mut selector, tensor, file_type, overrides)?;
            let requires_matrix = requires_matrix(&tensor.name, target, file_type);
            planned.push(Planned { tensor: tensor.clone(), target, requires_matrix });
        }
        Ok(Self { tensors: planned })
    }
}

fn target(
    selector: &mut Selector<'_>,
    tensor: &TensorInfo,
    file_type: FileType,
    overrides: &Overrides,
) -> Result<DType, RuleError> {
    let default = file_type.default_type();
    if !allows_quantization(&selector.hparams.arch, &tensor.name, tensor.n_dims()) {
        return Ok(tensor.dtype);
    }
    if !is_quantized(default) {
        return Ok(default);
    }
    let selected = match overrides.get(&tensor.name) {
        Some(&target) => target,
        None => selector.select(tensor, Category::of(&tensor.name))?,
    };
    let row = tensor.shape[0];
    written_type(selected, row).ok_or_else(|| RuleError::NoFallback {
        tensor: tensor.name.clone(),
        row,
        target: selected,
    })
}

/// Returns true for types with blocks.
#[must_use]
pub const fn is_quantized(dtype: DType) -> bool {
    dtype.block_len() > 1
}

/// Returns true if `llama-quantize` writes the tensor in this type only with a matrix.
fn requires_matrix(name: &str, target: DType, file_type: FileType) -> bool {
    if is_token_embd(name) || name == "output.weight" {
        return false;
    }
    match target {
        DType::IQ3_XXS | DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S | DType::IQ1_M | DType::IQ1_S => true,
        DType::Q2_K => file_type == FileType::Q2_K_S,
        _ => false,
    }
}
