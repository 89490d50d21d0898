use std::ffi::CStr;
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use llama_cpp_sys_2 as sys;

use crate::options::Numa;

/// llama.cpp and ggml, initialized. There is one per process, and it lives as long as the process: ggml's device
/// registry cannot be freed safely while other threads may use it.
#[derive(Debug)]
pub struct Backend(());

/// Changes to the process that initializing llama.cpp may make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendOptions {
    /// Allocates ggml's host buffers of a megabyte or more from pages that take memory only once they are written and
    /// that the system does not reserve. This applies to every user of ggml in this process. With a large vocabulary a
    /// context then takes half of the memory or less. A context that does not fit into memory is created without an
    /// error: check the size before. Meant for programs, which know what else runs in their process; not for libraries.
    pub fresh_pages: bool,
}

impl Backend {
    /// Initializes llama.cpp on the first call and returns the one instance on every call. It changes nothing else in
    /// the process: no allocator, signal handler or log.
    #[must_use]
    pub fn init() -> &'static Self {
        Self::init_with(BackendOptions::default())
    }

    /// As [`init`](Self::init), with options. Only the first call of either has an effect.
    #[must_use]
    pub fn init_with(options: BackendOptions) -> &'static Self {
        static BACKEND: OnceLock<Backend> = OnceLock::new();
        BACKEND.get_or_init(|| {
            if options.fresh_pages {
                // SAFETY: `OnceLock` calls this once. No type of this crate makes a buffer before `init` has returned,
                // and other threads that call `init` wait for it.
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

    /// Sets the NUMA strategy. Only the first call has an effect; it must come before a model is loaded.
    pub fn init_numa(&self, numa: Numa) {
        static ONCE: Once = Once::new();
        let numa = match numa {
            Numa::Distribute => sys::GGML_NUMA_STRATEGY_DISTRIBUTE,
            Numa::Isolate => sys::GGML_NUMA_STRATEGY_ISOLATE,
            Numa::Numactl => sys::GGML_NUMA_STRATEGY_NUMACTL,
        };
        // SAFETY: the CPU backend is registered, since init() has run. The call writes ggml's global state without a
        // lock; `Once` makes it on one thread alone.
        ONCE.call_once(|| unsafe { sys::llama_numa_init(numa) });
    }

    /// llama.cpp's version, such as `0.6.0`.
    #[must_use]
    pub fn version() -> &'static str {
        // SAFETY: a NUL-terminated string in static storage.
        unsafe { CStr::from_ptr(sys::llama_version()) }.to_str().unwrap_or("unknown")
    }

    /// Returns one line that names the compute backends and the CPU features they were compiled with.
    #[must_use]
    pub fn system_info(&self) -> String {
        static LOCK: Mutex<()> = Mutex::new(());
        let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: returns a NUL-terminated string in static storage. Each call overwrites it; in this crate only this
        // function makes that call, and it copies the string before it releases the lock.
        unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().into_owned()
    }

    /// Number of devices that a model can be split over.
    #[must_use]
    pub fn max_devices(&self) -> usize {
        // SAFETY: returns a constant of the build.
        unsafe { sys::llama_max_devices() }
    }

    /// Returns true if a device other than the CPU can hold layers.
    #[must_use]
    pub fn supports_gpu_offload(&self) -> bool {
        // SAFETY: reads the device registry, which init() has filled.
        unsafe { sys::llama_supports_gpu_offload() }
    }
}

/// Loads ggml's backend libraries from the program's folder, or else from the folder of this build.
fn load_dynamic_backends() {
    // SAFETY: takes no arguments; ggml searches its default folders and skips libraries that do not load.
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
