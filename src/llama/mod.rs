//! The safe layer over llama.cpp: the only place that speaks its C interface.
//!
//! | type | what it is |
//! |---|---|
//! | [`Backend`] | llama.cpp, initialized once per process |
//! | [`Model`], [`Vocab`] | weights and tokenizer of one GGUF model |
//! | [`Context`] | a model's memory and graph, with an [`Observer`] of every node it computes |
//! | [`NextnContext`] | the same for a NextN layer, which takes another context's hidden states |
//! | [`Device`], [`BufferType`] | a device of ggml, and a kind of its memory |
//! | [`Batch`] | tokens for one decode |
//! | [`TensorInfo`], [`TensorRef`] | a tensor's description, and a computed tensor, valid during one call of the observer |
//! | [`Attachment`] | an observer for a context that was created elsewhere |
//!
//! ```
//! use llama_imatrix::llama::{Batch, Context, ContextOptions, Model, ModelOptions, Outputs};
//! use llama_imatrix::{Collector, CollectorOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/quickstart.gguf");
//! let model = Model::load(path.as_ref(), &ModelOptions::default())?;
//! let options = ContextOptions::new(64, Outputs::Nothing); // no logits: nobody reads them here
//! let collector = Collector::new(&CollectorOptions::default());
//! let mut context = Context::new(&model, &options, collector.lane())?;
//! let mut batch = Batch::new();
//! let tokens = model.vocab().tokenize(b"It was a bright cold day, and the clocks were striking thirteen.", false)?;
//! for (position, &token) in (0..).zip(&tokens) {
//!     batch.add(token, position, 0);
//! }
//! context.decode(&mut batch)?;
//! let imatrix = collector.finish()?;
//! assert_eq!(imatrix.get("blk.0.attn_q.weight").ok_or("not collected")?.counts, [tokens.len() as i64]);
//! # Ok(())
//! # }
//! ```
//!
//! Raw pointers stay inside this module. Each type owns what it allocates and frees it on drop; what is borrowed
//! carries the lifetime of its owner.
#![allow(unsafe_code)] // Every block states the invariant that it relies on.

mod attachment;
mod backend;
mod batch;
mod callback;
mod chat;
mod context;
mod control_vector;
mod cpu;
mod create;
mod data;
mod device;
mod devices;
mod editable;
mod error;
mod graph;
mod graph_builder;
mod graph_runner;
mod loading;
mod log;
mod logit_ops;
mod memory;
mod memory_usage;
mod model;
mod model_options;
mod nextn;
mod outputs;
mod process;
mod quantized_rows;
mod readout;
mod replay;
mod rows;
mod rpc;
mod rpc_detach;
mod sampler;
mod scorer;
mod tensor;
mod test_lacks;
mod threads;
mod tuning;
mod vocab;
mod vocab_check;

pub use attachment::{Attachment, EvalCallback};
pub use backend::{Backend, BackendOptions};
pub use batch::{Batch, Token};
pub use callback::{Observer, ObserverError};
pub use chat::{apply_chat_template, chat_templates};
pub use context::{Context, ContextOptions, FlashAttention, Timings};
pub use control_vector::{ControlVector, ControlVectorError};
#[cfg(products)]
pub(crate) use cpu::amx_is_broken;
pub use cpu::unused_vector_features;
pub use data::{DataError, TensorRef};
pub(crate) use device::DeviceSums;
#[cfg(products)]
pub(crate) use devices::PRODUCTS;
pub use devices::{BufferType, Device};
pub use editable::EditableModel;
pub use error::Error;
pub(crate) use graph::{Graph, Node, NodeOp, Source};
#[cfg(products)]
pub(crate) use graph_runner::set_threads;
#[cfg(products)]
pub(crate) use log::without_details;
pub use log::{Level, set_log};
pub use memory_usage::DeviceMemory;
pub use model::Model;
pub use model_options::ModelOptions;
pub use nextn::{NextnContext, nextn_available};
pub use outputs::Outputs;
#[cfg(unix)]
pub use process::is_ignored;
pub use quantized_rows::{LARGEST_WEIGHT, QuantizedRows, RowError};
pub(crate) use readout::{Entry, Exit, ROWS_AT_ONCE, Readout};
pub(crate) use replay::{Part, Replay, Replayer};
pub(crate) use rows::OutputRows;
pub use rpc::{LostServer, on_lost_server, serve_rpc};
pub use tensor::{Op, TensorInfo};
pub use threads::{PoolOptions, Priority, ThreadOptions};
pub use tuning::Tuning;
pub use vocab::Vocab;
