//! `llama-quantize`'s rules, from a model's header alone: which tensors it quantizes, to which types (the mix behind a file
//! type, and the types it falls back to), and which of these it refuses to write without an importance matrix.
//!
//! Source: llama.cpp 0.6.0, `src/llama-quant.cpp` and `tools/quantize/quantize.cpp`. `scripts/check-quantize.sh` compares the
//! rules with the program itself.

mod allows;
mod category;
mod file_type;
mod hparams;
mod plan;
mod select;

pub use allows::allows_quantization;
pub use file_type::FileType;
pub use hparams::Hparams;
pub use plan::{Overrides, Plan, Planned, RuleError, TensorInfo, is_quantized};
pub use select::{uses_matrix, written_type};
