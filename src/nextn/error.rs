use std::path::PathBuf;

use crate::gguf;

/// Why `NextN` layers cannot be collected from these models.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A draft was given for a model that says it has `NextN` layers.
    #[error(
        "the model already includes NextN layers: '{}' has {n_layer_nextn}, use it with --nextn and without \
         --model-draft/-md", path.display()
    )]
    InModel {
        /// The model.
        path: PathBuf,
        /// `NextN` layers it says it has.
        n_layer_nextn: u32,
    },
    /// A draft was given for a model that has tensors of `NextN`.
    #[error("the model already includes NextN layers (NextN tensor '{tensor}' in '{}')", path.display())]
    TensorInModel {
        /// The model.
        path: PathBuf,
        /// Its first such tensor.
        tensor: String,
    },
    /// A draft was given as the model.
    #[error("'{}' is a NextN draft, use with --model-draft/-md", path.display())]
    ModelIsDraft {
        /// The file.
        path: PathBuf,
    },
    /// The draft cannot be read.
    #[error("'{}' is not a readable single-shard GGUF: {reason}", path.display())]
    Unreadable {
        /// The draft.
        path: PathBuf,
        /// Why.
        reason: gguf::Error,
    },
    /// The draft is one part of several.
    #[error("'{}' is not a readable single-shard GGUF: it is one of {n_parts} parts", path.display())]
    Split {
        /// The draft.
        path: PathBuf,
        /// Parts.
        n_parts: u16,
    },
    /// Two architectures.
    #[error("the draft architecture '{draft}' does not match the target architecture '{model}'")]
    Architecture {
        /// The draft's.
        draft: String,
        /// The model's.
        model: String,
    },
    /// The file has no `NextN` layers, or has more than those.
    #[error("'{}' is not a draft (no NextN layers or trunk tensors present)", path.display())]
    NotADraft {
        /// The file.
        path: PathBuf,
    },
    /// More than one `NextN` layer.
    #[error("multi-layer NextN drafts are not supported (found {found})")]
    SeveralLayers {
        /// `NextN` layers.
        found: u32,
    },
    /// `NextN` layers without a cache of their own.
    #[error("NextN layers sharing the trunk's KV cache are not supported")]
    SharedCache,
    /// The draft's layer does not follow the model's last.
    #[error("no NextN tensors at layer index {index} in '{}' found", path.display())]
    OtherIndex {
        /// The draft.
        path: PathBuf,
        /// Where the layer has to be: after the model's last.
        index: u32,
    },
    /// Hidden states of two widths.
    #[error("the draft output width {draft} does not match the target's {model}")]
    Width {
        /// The draft's.
        draft: u32,
        /// The model's.
        model: u32,
    },
    /// Tokens do not mean the same to both.
    #[error("the target and draft vocab are not compatible: {rule}")]
    Vocabulary {
        /// The first difference.
        rule: String,
    },
}
