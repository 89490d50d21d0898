use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::cpu::amx_crashes;
use super::loading::{Loading, amx_aborts, load_reason, refuse_other_kinds};
use super::log::{with_advice, with_reason};
use super::model_options::{Arrays, ModelOptions};
use super::{Backend, Error, Vocab, vocab_check};

/// The weights and vocabulary of one GGUF model.
#[derive(Debug)]
pub struct Model {
    ptr: NonNull<sys::llama_model>,
    /// Its file, or the first of several.
    path: PathBuf,
    /// Adapters and their scales. They belong to the model and are freed with it.
    adapters: Vec<(NonNull<sys::llama_adapter_lora>, f32)>,
    /// True if the model was loaded without its weights.
    dry: bool,
}

// SAFETY: with `&self` a loaded llama_model is only read, and llama.cpp shares one between contexts on several threads.
// Adding an adapter takes `&mut self`; `EditableModel`, which writes weights, does so too.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a model.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if the file cannot be opened. [`Error::NotModel`] or [`Error::NotGguf`] if it is not a
    /// model. [`Error::ModelLoad`] if it is truncated, is of an architecture this llama.cpp does not have, has a token
    /// twice in its vocabulary, or does not fit into memory.
    pub fn load(path: &Path, options: &ModelOptions) -> Result<Self, Error> {
        Self::load_with_progress(path, options, &mut |_| ())
    }

    /// As [`load`](Self::load). `progress` receives the fraction of the weights loaded so far, from 0 to 1, on this
    /// thread.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Panics
    /// Resumes a panic of `progress`, which also ends the loading.
    pub fn load_with_progress(
        path: &Path,
        options: &ModelOptions,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, Error> {
        let _ = Backend::init();
        // llama.cpp says only "failed to open"; the operating system gives the reason.
        let readable = std::fs::File::open(path).and_then(|file| {
            if file.metadata()?.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
        });
        readable.map_err(|source| Error::ModelFile { path: path.to_owned(), source })?;
        let c_path = path_to_c(path)?;
        refuse_other_kinds(path)?;
        vocab_check::check_file(path).map_err(|reason| Error::ModelLoad { path: path.to_owned(), reason })?;
        let mut arrays = Arrays::new(options)?;
        let mut params = arrays.params(options);
        params.use_extra_bufts = params.use_extra_bufts && !amx_crashes() && !amx_aborts(path);
        let mut loading = Loading::new(progress);
        loading.watch(&mut params);
        // SAFETY: the path is NUL-terminated. The path, the arrays that `params` points to, and `loading` outlive the
        // call; only the callback uses `loading` meanwhile.
        let (ptr, reason) = with_reason(|| unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) });
        let model = NonNull::new(ptr);
        let model = model.map(|ptr| Self { ptr, path: path.to_owned(), adapters: Vec::new(), dry: options.dry });
        loading.resume_panic();
        model.ok_or_else(|| Error::ModelLoad { path: path.to_owned(), reason: with_advice(load_reason(&reason)) })
    }

    /// Returns the model's vocabulary.
    #[must_use]
    pub fn vocab(&self) -> Vocab<'_> {
        // SAFETY: the model is alive. Its vocabulary lives as long, which the lifetime states.
        Vocab::new(unsafe { sys::llama_model_get_vocab(self.ptr.as_ptr()) }, self)
    }

    pub(super) fn is_dry(&self) -> bool {
        self.dry
    }

    /// Returns the file it was loaded from, or the first of several.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `general.architecture`.
    #[must_use]
    pub fn architecture(&self) -> String {
        self.meta(c"general.architecture").unwrap_or_default()
    }

    /// Returns `general.name`, or else the file's name.
    #[must_use]
    pub fn name(&self) -> String {
        let file = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.meta(c"general.name").filter(|name| !name.is_empty()).unwrap_or_else(file)
    }

    /// Returns a metadata value as a string, if it exists and is shorter than 1 MiB.
    pub(super) fn meta(&self, key: &CStr) -> Option<String> {
        const LONGEST: usize = 1 << 20;
        let mut value = vec![0_u8; 128];
        loop {
            // SAFETY: the model is alive, the key is NUL-terminated, and llama.cpp writes at most `value.len()` bytes.
            let len = unsafe {
                sys::llama_model_meta_val_str(self.ptr.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len())
            };
            // The length of the whole value, without the NUL after it.
            let len = usize::try_from(len).ok().filter(|&len| len < LONGEST)?;
            if len < value.len() {
                value.truncate(len);
                return String::from_utf8(value).ok();
            }
            value.resize(len + 1, 0);
        }
    }

    /// Context length that the model was trained with, in tokens.
    #[must_use]
    pub fn n_ctx_train(&self) -> i32 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_ctx_train(self.ptr.as_ptr()) }
    }

    /// Number of NextN layers.
    #[must_use]
    pub fn n_layer_nextn(&self) -> i32 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_layer_nextn(self.ptr.as_ptr()) }
    }

    /// Number of learned position embeddings, as in GPT-2 and BERT. `None` if the model computes positions.
    #[must_use]
    pub fn learned_positions(&self) -> Option<i32> {
        let file = crate::gguf::File::open(&self.path).ok()?;
        i32::try_from(file.tensor("position_embd.weight")?.shape[1]).ok()
    }

    /// Number of values per token in the last layer's output (`n_embd_out`).
    #[must_use]
    pub fn n_embd_out(&self) -> usize {
        // SAFETY: the model is alive.
        usize::try_from(unsafe { sys::llama_model_n_embd_out(self.ptr.as_ptr()) }).unwrap_or(0)
    }

    /// Returns true for a diffusion model: it attends to whole texts and has no memory between batches.
    #[must_use]
    pub(crate) fn is_diffusion(&self) -> bool {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_is_diffusion(self.ptr.as_ptr()) }
    }

    /// Returns true for an encoder-decoder model.
    #[must_use]
    pub(crate) fn is_encoder_decoder(&self) -> bool {
        // SAFETY: the model is alive, for both calls.
        unsafe { sys::llama_model_has_encoder(self.ptr.as_ptr()) && sys::llama_model_has_decoder(self.ptr.as_ptr()) }
    }

    /// Returns true if at least some layers keep a recurrent state instead of a KV cache.
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        // SAFETY: the model is alive, for both calls.
        unsafe { sys::llama_model_is_recurrent(self.ptr.as_ptr()) || sys::llama_model_is_hybrid(self.ptr.as_ptr()) }
    }

    /// Returns the file's chat template, in Jinja, as for Hugging Face's `apply_chat_template`.
    #[must_use]
    pub fn chat_template(&self) -> Option<String> {
        self.meta(c"tokenizer.chat_template")
    }

    /// Returns the file's chat template for conversations with tools, if it has a separate one.
    #[must_use]
    pub fn tool_use_template(&self) -> Option<String> {
        self.meta(c"tokenizer.chat_template.tool_use")
    }

    /// Loads a `LoRA` adapter. Every context created later applies it, scaled by `scale`.
    ///
    /// # Errors
    /// [`Error::Adapter`] if it cannot be read or is for another model.
    pub fn add_adapter(&mut self, path: &Path, scale: f32) -> Result<(), Error> {
        let c_path = path_to_c(path)?;
        // SAFETY: the model is alive, and with `&mut self` no context or graph borrows it. The path outlives the call.
        let (ptr, reason) = with_reason(|| unsafe { sys::llama_adapter_lora_init(self.ptr.as_ptr(), c_path.as_ptr()) });
        let ptr = NonNull::new(ptr).ok_or_else(|| Error::Adapter { path: path.to_owned(), reason })?;
        self.adapters.push((ptr, scale));
        Ok(())
    }

    /// Number of layers.
    #[must_use]
    pub fn n_layer(&self) -> i32 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_layer(self.ptr.as_ptr()) }
    }

    pub(super) fn adapters(&self) -> &[(NonNull<sys::llama_adapter_lora>, f32)] {
        &self.adapters
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.ptr.as_ptr()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: this value owns the model. Contexts, graphs and vocabularies borrow it, so none is left.
        unsafe { sys::llama_model_free(self.ptr.as_ptr()) };
    }
}

fn path_to_c(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Nul { what: "model path", value: path.display().to_string() })
}
