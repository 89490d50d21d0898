//! Calibration text: from files to tokens to the chunks that a run evaluates.
//!
//! [`Corpus`] reads files: plain text, JSON lines of documents or conversations, compressed or not.
#![cfg_attr(
    feature = "chat",
    doc = "[`ChatTemplate`] makes text of a conversation, as the model was trained to read it."
)]
//! [`Corpus::tokenize`] converts it to tokens, [`Documents`], with a [`Tokenizer`].
//! [`Chunks`] splits them, as one text or as separate documents.

#[cfg(feature = "chat")]
mod chat;
mod chunks;
mod corpus;
mod documents;
mod encoding;
mod error;
mod folder;
mod jsonl;
mod note;
mod pack;
mod read;
mod shuffle;
mod tokenizer;
mod tokens;
#[cfg(feature = "compression")]
mod zstd;

#[cfg(feature = "chat")]
pub use chat::{ChatError, ChatTemplate, Date, Renderer, SpecialTexts};
pub use chunks::{ChunkOptions, Chunks};
pub use corpus::{Body, Corpus, Input, Item, Layout};
pub use documents::Documents;
pub use encoding::{Invalid, NotText};
pub use error::Error;
pub use jsonl::Conversation;
pub use note::Note;
pub(crate) use pack::Room;
pub use shuffle::shuffle;
pub use tokenizer::Tokenizer;
pub use tokens::{Template, TokenOptions};
