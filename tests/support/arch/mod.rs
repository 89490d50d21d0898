//! One file a model: its hyperparameters, then its tensors.

pub mod bert;
pub mod command_r;
pub mod deepseek2;
pub mod dream;
pub mod experts;
pub mod gemma2;
pub mod gemma3;
pub mod glm4_nextn;
pub mod gpt2;
pub mod hy_v3_nextn;
pub mod lfm2;
pub mod llada;
pub mod llama;
pub mod mamba;
pub mod mpt;
pub mod quantized;
pub mod qwen2;
pub mod qwen35_nextn;
pub mod qwen3moe;

use super::model::Fill::{self, Bias, Embedding, Norm, Weight, WeightF16, WeightQ4K, WeightQ5K, WeightQ6K, WeightQ8};
use super::model::ModelFile;
use super::vocab::Vocab;
