use std::path::PathBuf;

use super::callback::ObserverError;
use crate::gguf;

/// An error of this crate's llama.cpp layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path or text that C cannot take, since it holds a NUL byte.
    #[error("{what} contains a NUL byte: {value:?}")]
    Nul {
        /// Name of the argument, such as "model path".
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// A key or text for which llama.cpp has too little room.
    #[error("{what} is longer than {limit} bytes: {value:?}")]
    TooLong {
        /// What was passed.
        what: &'static str,
        /// Its value.
        value: String,
        /// Most bytes.
        limit: usize,
    },
    /// An RPC server that cannot be used.
    #[error("RPC server '{endpoint}': {reason}")]
    Rpc {
        /// Its address.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// A `LoRA` adapter that cannot be read or is for another model.
    #[error("failed to load lora adapter '{}': {reason}", path.display())]
    Adapter {
        /// Its file.
        path: PathBuf,
        /// llama.cpp's own error lines.
        reason: String,
    },
    /// Adapters or control vectors that do not fit the model.
    #[error("cannot apply {what} to the model: {reason}")]
    Apply {
        /// What could not be applied.
        what: &'static str,
        /// llama.cpp's own error lines.
        reason: String,
    },
    /// The model file cannot be opened.
    #[error("cannot read model '{}'", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A chat template that is not compiled into llama.cpp.
    #[error("llama.cpp has no chat template '{name}' that renders this conversation")]
    ChatTemplate {
        /// Its name.
        name: String,
    },
    /// The file is not a model.
    #[error("'{}' is not a model, but {kind}", path.display())]
    NotModel {
        /// The file.
        path: PathBuf,
        /// What it holds.
        kind: gguf::Kind,
    },
    /// The file is not a GGUF file.
    #[error("'{}' is not a GGUF file: it begins with {found:?}, expected \"GGUF\"", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most four.
        found: String,
    },
    /// llama.cpp refused the model.
    #[error("cannot load model '{}': {reason}", path.display())]
    ModelLoad {
        /// The file.
        path: PathBuf,
        /// llama.cpp's own error lines.
        reason: String,
    },
    /// A context could not be created, in most cases because memory ran out.
    #[error("cannot create a context of {n_ctx} tokens in {n_seq} sequences, batches of {n_batch}: {reason}")]
    ContextInit {
        /// Tokens the context holds, all sequences together.
        n_ctx: u32,
        /// Sequences.
        n_seq: u32,
        /// Tokens per batch.
        n_batch: u32,
        /// llama.cpp's own error lines.
        reason: String,
    },
    /// The text is longer than llama.cpp's tokenizer can take.
    #[error("cannot tokenize {found} bytes of text: llama.cpp takes at most {limit} bytes and tokens")]
    TextTooLong {
        /// Bytes given.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The model's vocabulary cannot tokenize: llama.cpp would end the process.
    #[error("cannot tokenize: {reason}")]
    Vocabulary {
        /// What it lacks.
        reason: &'static str,
    },
    /// llama.cpp's tokenizer fails on the text.
    #[error(
        "llama.cpp's tokenizer fails on this text: {reason}; the text may be no UTF-8, or the model's vocabulary lacks tokens \
         for some of its bytes"
    )]
    Tokenizer {
        /// The tokenizer's message.
        reason: String,
    },
    /// A batch that does not fit its context.
    #[error("batch has {found} tokens, the context takes at most {limit}")]
    BatchTooLarge {
        /// Tokens in the batch.
        found: usize,
        /// `n_batch` of the context.
        limit: usize,
    },
    /// A position that the model has learned no embedding for.
    #[error("position {found} is none of the {limit} that the model has learned; hint: --ctx-size {limit} or less")]
    Position {
        /// The position, from 0.
        found: i32,
        /// Number of learned positions.
        limit: i32,
    },
    /// Targets that are not one per token of the batch, or are not tokens of the vocabulary.
    #[error("{found} targets for {expected} tokens, each a token of the vocabulary's {n_vocab}")]
    Targets {
        /// Targets given.
        found: usize,
        /// Tokens of the batch.
        expected: usize,
        /// Tokens of the vocabulary.
        n_vocab: usize,
    },
    /// The model was loaded [`dry`](super::ModelOptions::dry).
    #[error("the model was loaded without its weights, so nothing can be computed with it")]
    NoWeights,
    /// llama.cpp could not evaluate a batch.
    #[error("cannot evaluate a batch of {n_tokens} tokens: {reason} (status {status})")]
    Decode {
        /// `llama_decode`'s return value.
        status: i32,
        /// Tokens in the batch.
        n_tokens: usize,
        /// llama.cpp's own error lines.
        reason: String,
    },
    /// This build has no NextN support: llama.cpp's headers were not available.
    #[error(
        "this program was built without NextN: llama.cpp's src/llama-ext.h was not found when it was compiled, \
         as happens with a llama.cpp installed apart"
    )]
    NextnUnavailable,
    /// The trunk left no hidden state for a NextN layer.
    #[error("no NextN hidden state for row {row}")]
    NextnState {
        /// Index of the token in the batch.
        row: usize,
    },
    /// A NextN layer did not take a token.
    #[error(
        "the NextN layer does not take the token at position {position}, with a hidden state of {width} values where \
         it reads {expected}"
    )]
    NextnToken {
        /// Its position.
        position: i32,
        /// Values of the hidden state.
        width: usize,
        /// Values the layer reads.
        expected: usize,
    },
    /// The observer returned an error while the graph ran.
    #[error(transparent)]
    Observer(ObserverError),
}
