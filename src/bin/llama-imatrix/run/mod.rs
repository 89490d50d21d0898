//! Evaluates a model over a text. All code that needs llama.cpp is here.

mod about;
#[cfg(feature = "llama")]
mod base;
#[cfg(feature = "llama")]
mod chat;
#[cfg(feature = "llama")]
mod collect;
#[cfg(feature = "llama")]
mod convergence;
#[cfg(feature = "llama")]
mod disk;
#[cfg(feature = "llama")]
mod dry_run;
#[cfg(feature = "llama")]
mod events;
#[cfg(feature = "llama")]
mod finish;
pub(crate) mod kld;
#[cfg(feature = "llama")]
mod last_saves;
#[cfg(feature = "llama")]
mod lens;
#[cfg(feature = "llama")]
mod lock;
#[cfg(feature = "llama")]
mod micro_batch;
#[cfg(feature = "llama")]
mod models;
#[cfg(feature = "llama")]
mod next_step;
#[cfg(feature = "llama")]
mod nextn;
#[cfg(feature = "llama")]
mod preflight;
#[cfg(feature = "llama")]
mod saved;
pub(crate) mod sensitivity;
#[cfg(feature = "llama")]
mod settings;
#[cfg(feature = "llama")]
mod shown;
#[cfg(feature = "llama")]
mod state_file;
#[cfg(feature = "llama")]
mod text;
#[cfg(feature = "llama")]
mod weights;
pub(crate) mod worker;
#[cfg(feature = "llama")]
mod worker_lost;

pub(crate) use about::{devices, version};
#[cfg(feature = "llama")]
pub(crate) use collect::collect;

/// Fails: runs need llama.cpp.
#[cfg(not(feature = "llama"))]
pub(crate) fn collect(_: crate::config::Collect) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("this program was built without llama.cpp: it can merge and show matrices, but not collect them")
}
