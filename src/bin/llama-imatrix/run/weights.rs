//! The weights of a model, as its files list them.

use std::path::Path;

use llama_imatrix::gguf;
use llama_imatrix::state::{Accumulate, model_files};

use crate::config::Collect;

/// Sizes of a model's weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    /// Number of weights in the layers' products that a token is multiplied with: of experts as many as are used.
    pub(crate) active: u64,
    /// Number of weights in the output matrix.
    pub(crate) output: u64,
    /// Number of tensors that may have an entry in a matrix.
    pub(crate) entries: u64,
    /// Values of these entries: channels times matrices.
    pub(crate) entry_values: u64,
    /// Channels of the layers' inputs, times matrices.
    pub(crate) channels: u64,
    /// Bytes of all weights except the embeddings and the output matrix.
    layers_bytes: u64,
    /// Bytes of the output matrix, which may be the embeddings.
    output_bytes: u64,
    /// Bytes of the largest matrix of the layers: of one expert.
    pub(crate) largest_matrix: u64,
    /// Largest number of channels that a product reads per token, all experts of the token together.
    pub(crate) widest_input: u64,
    /// Number of experts per layer, and how many of them a token has.
    pub(crate) experts: Option<(u64, u64)>,
    /// Names of the tensors that hold them.
    pub(crate) expert_tensors: Vec<String>,
}

impl Weights {
    /// `None` if a file cannot be read: llama.cpp can, so it is one that our reader knows less of.
    pub(crate) fn of(model: &Path) -> Option<Self> {
        let mut all = Self::default();
        let (mut embedding, mut used) = ((0, 0), None);
        for path in model_files(model).ok()? {
            let file = gguf::File::open(&path).ok()?;
            let arch = file.get("general.architecture").and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            used = used.or_else(|| file.get(&format!("{arch}.expert_used_count")).and_then(gguf::Value::as_u64));
            for tensor in file.tensors() {
                let [columns, rows, n2, n3] = tensor.shape;
                let matrices = n2.saturating_mul(n3);
                if tensor.name.starts_with("blk.") && rows > 1 {
                    all.entries += 1;
                    all.entry_values = all.entry_values.saturating_add(columns.saturating_mul(matrices));
                }
                let (elements, bytes) = (columns.saturating_mul(rows), tensor.data.len() as u64);
                match tensor.name {
                    "output.weight" => (all.output, all.output_bytes) = (elements, bytes),
                    "token_embd.weight" => embedding = (elements, bytes),
                    // A table of which rows are read.
                    "per_layer_token_embd.weight" => {}
                    name => {
                        all.layers_bytes += bytes;
                        if name.starts_with("blk.") && name.ends_with(".weight") && rows > 1 {
                            let experts = name.contains("_exps.");
                            let per_token = if experts { used.unwrap_or(1).min(matrices) } else { matrices };
                            if experts {
                                all.experts = Some((matrices, per_token));
                                all.expert_tensors.push(name.to_owned());
                            }
                            all.active = all.active.saturating_add(elements.saturating_mul(per_token));
                            all.channels = all.channels.saturating_add(columns.saturating_mul(matrices));
                            all.largest_matrix = all.largest_matrix.max(bytes / matrices.max(1));
                            all.widest_input = all.widest_input.max(columns.saturating_mul(per_token));
                        }
                    }
                }
            }
        }
        if all.output == 0 {
            (all.output, all.output_bytes) = embedding; // tied
        }
        Some(all)
    }

    /// Returns the bytes of weights that an evaluation reads. Of the embeddings it reads some rows, and the output
    /// matrix only for perplexity or if it is collected.
    pub(crate) fn read_per_evaluation(&self, output: bool) -> u64 {
        self.layers_bytes + if output { self.output_bytes } else { 0 }
    }

    /// Returns the bytes of the sums of a run.
    pub(crate) fn sums(&self, task: &Collect) -> u64 {
        // Two f32 sums per channel; exact ones take five words of 64 bits.
        let bytes = if task.accumulate == Accumulate::F64 { 40 } else { 8 };
        // The half of the text is one sum in f64.
        let bytes = if task.convergence.is_some() { bytes + 8 } else { bytes };
        self.channels.saturating_mul(bytes)
    }
}
