//! A model whose weights can be exchanged while it stays loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::graph::LeafKind;
use super::{Batch, Context, ContextOptions, Error, Model, ModelOptions, Outputs};
use crate::options::{LazyMode, LoadMode};

/// A model in memory of its own, with its weights by name.
///
/// Writing needs `&mut self`, and every [`Context`] borrows the model: no context exists when a weight changes.
///
/// ```compile_fail,E0502
/// # use llama_imatrix::llama::{Context, ContextOptions, EditableModel, Error};
/// fn edits_under_a_context(model: &mut EditableModel, options: &ContextOptions) -> Result<(), Error> {
///     let context = Context::new(model.model(), options, ())?;
///     let _ = model.write("output.weight", &[]);
///     drop(context);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct EditableModel {
    model: Model,
    /// A weight may have several tensors, such as an output matrix that is tied to the embeddings.
    weights: BTreeMap<String, Vec<NonNull<sys::ggml_tensor>>>,
}

// SAFETY: the pointers are to tensors of the model, which lives as long and may be used from any thread. `&self` only
// reads them; writing takes `&mut self`.
unsafe impl Send for EditableModel {}
// SAFETY: as above.
unsafe impl Sync for EditableModel {}

impl EditableModel {
    /// Loads a model into memory, with its weights as its file has them, and evaluates two tokens to find the weights.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Context::decode`].
    pub fn load(path: &Path, options: &ModelOptions) -> Result<Self, Error> {
        // A mapped file is read-only, and reordered weights are not the file's.
        let options =
            ModelOptions { load_mode: LoadMode::Read, lazy_mode: LazyMode::Off, no_repack: true, ..options.clone() };
        let model = Model::load(path, &options)?;
        let weights = weights_of(&model)?;
        Ok(Self { model, weights })
    }

    /// Returns the model, to evaluate it.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns true if the model computes with a weight of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Copies a weight's data, as a file stores it; `None` if there is no such weight.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let tensor = self.weights.get(name)?.first()?.as_ptr();
        // SAFETY: the tensor is the model's, which is alive, and nobody writes it during `&self`; it has a buffer (see
        // `weights_of`), from which its `n` bytes are copied into as many.
        unsafe {
            let n = sys::ggml_nbytes(tensor);
            let mut bytes = vec![0_u8; n];
            sys::ggml_backend_tensor_get(tensor, bytes.as_mut_ptr().cast(), 0, n);
            Some(bytes)
        }
    }

    /// Replaces a weight's data. Returns false, and changes nothing, if there is no such weight or it has another size.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> bool {
        let Some(tensors) = self.weights.get(name) else { return false };
        // SAFETY: reads shape and type of tensors of the model, which is alive.
        if tensors.iter().any(|tensor| unsafe { sys::ggml_nbytes(tensor.as_ptr()) } != bytes.len()) {
            return false;
        }
        for tensor in tensors {
            // SAFETY: the tensor is the model's, in memory that is writable, since `load` maps no file. Every context
            // borrows the model, so with `&mut self` none exists that could read it. Its buffer has room for these
            // bytes (checked).
            unsafe { sys::ggml_backend_tensor_set(tensor.as_ptr(), bytes.as_ptr().cast(), 0, bytes.len()) };
        }
        true
    }
}

/// Finds the weights that an evaluation reads.
fn weights_of(model: &Model) -> Result<BTreeMap<String, Vec<NonNull<sys::ggml_tensor>>>, Error> {
    let mut context = Context::new(model, &ContextOptions::new(32, Outputs::All), ())?;
    let mut batch = Batch::new();
    let token = model.vocab().leading_bos().unwrap_or(0);
    (0..2).for_each(|position| batch.add(token, position, 0));
    let graph = context.record(&mut batch)?;
    let mut weights: BTreeMap<String, Vec<NonNull<sys::ggml_tensor>>> = BTreeMap::new();
    for leaf in graph.leaves.iter().filter(|leaf| leaf.kind == LeafKind::Weight) {
        let tensors = weights.entry(leaf.name.clone()).or_default();
        if !tensors.contains(&leaf.ptr) {
            tensors.push(leaf.ptr);
        }
    }
    Ok(weights)
}
