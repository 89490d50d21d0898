use std::ffi::CStr;
use std::sync::{Mutex, OnceLock, PoisonError};

use llama_cpp_sys_2 as sys;

use crate::options::Numa;

/// llama.cpp and ggml, initialized. There is one a process and it lives as long as the process does: ggml's device
/// registries cannot be taken down safely while other threads may hold them.
#[derive(Debug)]
pub struct Backend(());

/// What initializing llama.cpp may change of its process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendOptions {
    /// Has all of ggml's host buffers of a megabyte and more come from pages that take memory only once they are written,
    /// and that the system does not reserve: those of every user of ggml in this process. A context then takes half of the
    /// memory or less where the vocabulary is large, and one that is too large is created all the same; a run checks first
    /// whether it fits. For a program, which knows what else is in its process, and not for a library.
    pub fresh_pages: bool,
}

impl Backend {
    /// Initializes llama.cpp on the first call and returns the one instance on every call. Nothing else of the process is
    /// changed: no allocator, signal handler or log.
    #[must_use]
    pub fn init() -> &'static Self {
        Self::init_with(BackendOptions::default())
    }

    /// As [`init`](Self::init), with options. The first call of either counts.
    #[must_use]
    pub fn init_with(options: BackendOptions) -> &'static Self {
        static BACKEND: OnceLock<Backend> = OnceLock::new();
        BACKEND.get_or_init(|| {
            if options.fresh_pages {
                // SAFETY: called once, by OnceLock, and before any buffer is made by this crate, all of whose types begin
                // with this call.
                unsafe { super::memory::install() };
            }
            // SAFETY: called once, by OnceLock, before any other llama.cpp call that needs it.
            unsafe { sys::llama_backend_init() };
            if cfg!(feature = "dynamic-backends") {
                load_dynamic_backends();
            }
            Backend(())
        })
    }

    /// Sets the NUMA strategy. The first call counts; it must come before a model is loaded.
    pub fn init_numa(&self, numa: Numa) {
        let numa = match numa {
            Numa::Distribute => sys::GGML_NUMA_STRATEGY_DISTRIBUTE,
            Numa::Isolate => sys::GGML_NUMA_STRATEGY_ISOLATE,
            Numa::Numactl => sys::GGML_NUMA_STRATEGY_NUMACTL,
        };
        // SAFETY: the CPU backend is registered, since init() has run; it ignores all calls but the first.
        unsafe { sys::llama_numa_init(numa) };
    }

    /// llama.cpp's version, such as `0.6.0`.
    #[must_use]
    pub fn version() -> &'static str {
        // SAFETY: a NUL-terminated string in static storage.
        unsafe { CStr::from_ptr(sys::llama_version()) }.to_str().unwrap_or("unknown")
    }

    /// One line that names the compute backends and the CPU features they were compiled with.
    #[must_use]
    pub fn system_info(&self) -> String {
        static LOCK: Mutex<()> = Mutex::new(());
        let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: returns a NUL-terminated string in static storage, which is copied before the lock is released; only
        // this function, under the lock, overwrites it.
        unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().into_owned()
    }

    /// How many devices a model can be spread over.
    #[must_use]
    pub fn max_devices(&self) -> usize {
        // SAFETY: returns a constant of the build.
        unsafe { sys::llama_max_devices() }
    }

    /// Whether a device other than the CPU can hold layers.
    #[must_use]
    pub fn supports_gpu_offload(&self) -> bool {
        // SAFETY: reads the device registry, which init() has filled.
        unsafe { sys::llama_supports_gpu_offload() }
    }
}

/// Finds ggml's backend libraries beside the program, else where this build left them.
fn load_dynamic_backends() {
    // SAFETY: takes no arguments; ggml searches its default folders and ignores what does not load.
    unsafe { sys::ggml_backend_load_all() };
    // SAFETY: reads the registry's size.
    let found = unsafe { sys::ggml_backend_reg_count() };
    if found == 0
        && let Some(dir) = sys::BACKENDS_DIR
        && let Ok(dir) = std::ffi::CString::new(dir)
    {
        // SAFETY: `dir` is NUL-terminated and outlives the call.
        unsafe { sys::ggml_backend_load_all_from_path(dir.as_ptr()) };
    }
}
