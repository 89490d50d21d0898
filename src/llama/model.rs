use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::log::with_reason;
use super::{Backend, Error, Vocab};

/// How many layers go to devices other than the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As many as llama.cpp thinks fit.
    #[default]
    Auto,
    /// All of them.
    All,
    /// This many.
    Count(u32),
}

impl GpuLayers {
    /// llama.cpp's encoding: -1 is "auto", any other negative number "all".
    fn to_c(self) -> i32 {
        match self {
            Self::Auto => -1,
            Self::All => -2,
            Self::Count(n) => i32::try_from(n).unwrap_or(i32::MAX),
        }
    }
}

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct ModelOptions {
    /// Layers on devices.
    pub gpu_layers: GpuLayers,
    /// Whether its NextN layers are loaded, if it has any.
    pub nextn: bool,
}

/// The weights and vocabulary of one GGUF model.
#[derive(Debug)]
pub struct Model {
    ptr: NonNull<sys::llama_model>,
}

// SAFETY: a loaded llama_model is never written again; llama.cpp shares one between contexts on several threads.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a model.
    ///
    /// # Errors
    /// [`Error::ModelFile`] where the file cannot be opened, [`Error::ModelLoad`] where it is no model, is truncated,
    /// is of an architecture this llama.cpp does not have, or does not fit into memory.
    pub fn load(path: &Path, options: &ModelOptions) -> Result<Self, Error> {
        let _ = Backend::init();
        // llama.cpp says only "failed to open": the operating system knows more.
        let readable = std::fs::File::open(path).and_then(|file| {
            if file.metadata()?.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
        });
        readable.map_err(|source| Error::ModelFile { path: path.to_owned(), source })?;
        let c_path = path_to_c(path)?;
        // SAFETY: returns a struct of plain values.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = options.gpu_layers.to_c();
        params.load_mtp = options.nextn;
        // SAFETY: the path is NUL-terminated and outlives the call; `params` holds no pointer of ours.
        let (ptr, reason) = with_reason(|| unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) });
        NonNull::new(ptr).map(|ptr| Self { ptr }).ok_or_else(|| Error::ModelLoad { path: path.to_owned(), reason })
    }

    /// The model's vocabulary.
    #[must_use]
    pub fn vocab(&self) -> Vocab<'_> {
        // SAFETY: the model is alive; its vocabulary lives and dies with it, which the lifetime says.
        Vocab::new(unsafe { sys::llama_model_get_vocab(self.ptr.as_ptr()) })
    }

    /// Tokens of context the model was trained on.
    #[must_use]
    pub fn n_ctx_train(&self) -> i32 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_ctx_train(self.ptr.as_ptr()) }
    }

    /// Layers, those of NextN not counted: the NextN layers come after them.
    #[must_use]
    pub fn n_layer(&self) -> i32 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_layer(self.ptr.as_ptr()) }
    }

    /// NextN layers.
    #[must_use]
    pub fn n_layer_nextn(&self) -> i32 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_layer_nextn(self.ptr.as_ptr()) }
    }

    /// Values in a hidden state, as it leaves the last layer.
    #[must_use]
    pub fn n_embd_out(&self) -> usize {
        // SAFETY: the model is alive.
        usize::try_from(unsafe { sys::llama_model_n_embd_out(self.ptr.as_ptr()) }).unwrap_or(0)
    }

    /// Whether the model makes text from noise: it sees whole texts, and has no memory between batches.
    #[must_use]
    pub fn is_diffusion(&self) -> bool {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_is_diffusion(self.ptr.as_ptr()) }
    }

    /// Whether an encoder has to run before the decoder can.
    #[must_use]
    pub fn is_encoder_decoder(&self) -> bool {
        // SAFETY: the model is alive, for both calls.
        unsafe { sys::llama_model_has_encoder(self.ptr.as_ptr()) && sys::llama_model_has_decoder(self.ptr.as_ptr()) }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.ptr.as_ptr()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: we own the model, and contexts and vocabularies borrow it, so none is left.
        unsafe { sys::llama_model_free(self.ptr.as_ptr()) };
    }
}

fn path_to_c(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Nul { what: "model path", value: path.display().to_string() })
}
