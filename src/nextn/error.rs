//! The rules that a model and a draft model can break: one variant per rule.

use std::path::PathBuf;

use crate::gguf;

/// The reason why the `NextN` layers of these models cannot be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A draft model was given, but the model's header declares `NextN` layers.
    #[error(
        "the model already includes NextN layers: '{}' has {n_layer_nextn}, use it with --nextn and without \
         --model-draft/-md", path.display()
    )]
    InModel {
        /// The model.
        path: PathBuf,
        /// Declared number of `NextN` layers.
        n_layer_nextn: u32,
    },
    /// A draft model was given, but the model has `NextN` tensors.
    #[error("the model already includes NextN layers (NextN tensor '{tensor}' in '{}')", path.display())]
    TensorInModel {
        /// The model.
        path: PathBuf,
        /// Its first `NextN` tensor.
        tensor: String,
    },
    /// A draft model was given as the model.
    #[error("'{}' is a NextN draft, use with --model-draft/-md", path.display())]
    ModelIsDraft {
        /// The file.
        path: PathBuf,
    },
    /// The draft model cannot be read.
    #[error("'{}' is not a readable single-shard GGUF: {reason}", path.display())]
    Unreadable {
        /// The draft model.
        path: PathBuf,
        /// The reason.
        reason: gguf::Error,
    },
    /// The draft model is split into several files.
    #[error("'{}' is not a readable single-shard GGUF: it is one of {n_parts} parts", path.display())]
    Split {
        /// The draft model.
        path: PathBuf,
        /// Number of parts.
        n_parts: u16,
    },
    /// The architectures differ.
    #[error("the draft architecture '{draft}' does not match the target architecture '{model}'")]
    Architecture {
        /// Architecture of the draft model.
        draft: String,
        /// Architecture of the model.
        model: String,
    },
    /// The draft file has no `NextN` layers, or also has other layers.
    #[error("'{}' is not a draft (no NextN layers or trunk tensors present)", path.display())]
    NotADraft {
        /// The file.
        path: PathBuf,
    },
    /// More than one `NextN` layer.
    #[error("multi-layer NextN drafts are not supported (found {found})")]
    SeveralLayers {
        /// Number of `NextN` layers.
        found: u32,
    },
    /// The `NextN` layers use the KV cache of the trunk.
    #[error("NextN layers sharing the trunk's KV cache are not supported")]
    SharedCache,
    /// The draft model's layer does not follow the model's last layer.
    #[error("no NextN tensors at layer index {index} in '{}' found", path.display())]
    OtherIndex {
        /// The draft model.
        path: PathBuf,
        /// Expected layer index: the one after the model's last layer.
        index: u32,
    },
    /// The widths of the hidden states differ.
    #[error("the draft output width {draft} does not match the target's {model}")]
    Width {
        /// Width of the draft model.
        draft: u32,
        /// Width of the model.
        model: u32,
    },
    /// The vocabularies differ.
    #[error("the target and draft vocab are not compatible: {rule}")]
    Vocabulary {
        /// The first difference.
        rule: String,
    },
}
