//! Models from elsewhere: `--model-url`, `--hf-repo`, `--docker-repo`. Files lie in the cache under the names that
//! llama.cpp gives them, so that what one program has downloaded the other finds.

mod cache;
#[cfg(feature = "download")]
mod docker;
#[cfg(feature = "download")]
mod http;
#[cfg(feature = "download")]
mod hugging_face;
#[cfg(feature = "download")]
mod mask;
#[cfg(feature = "download")]
mod model;
#[cfg(feature = "download")]
mod partial;
#[cfg(feature = "download")]
mod parts;

pub(crate) use cache::cached_models;
#[cfg(feature = "download")]
pub(crate) use mask::masked;
#[cfg(feature = "download")]
pub(crate) use model::model;
