//! The integration tests, one binary.

mod check;
mod formats;
mod layers;
mod support;

#[cfg(feature = "llama")]
mod golden;
#[cfg(feature = "llama")]
mod llama;
#[cfg(all(feature = "llama", feature = "cli"))]
mod oracle;
#[cfg(all(feature = "llama", feature = "cli"))]
mod program;
