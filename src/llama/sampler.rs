//! A sampler that samples nothing, so that llama.cpp copies no logits.
//!
//! llama.cpp does not copy the logits of a sequence whose sampler runs on the backend, since the sampler has read them
//! there. This sampler reads none.

use std::ffi::{CStr, c_char};
use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;

/// A sampler chain that contains only this sampler. A context that uses it must be freed first.
pub(super) struct NoSampler(NonNull<sys::llama_sampler>);

/// Callbacks of the sampler. llama.cpp keeps a pointer to this struct.
static INTERFACE: sys::llama_sampler_i = sys::llama_sampler_i {
    name: Some(name),
    accept: None,
    apply: Some(apply),
    reset: None,
    clone: None,
    free: None,
    backend_init: Some(backend_init),
    backend_accept: None,
    backend_apply: Some(backend_apply),
    backend_set_input: None,
    backend_reset: None,
    copy_state: None,
};

impl NoSampler {
    pub(super) fn new() -> Option<Self> {
        // SAFETY: the interface lives as long as the process, and llama.cpp only reads it. The chain owns the sampler.
        unsafe {
            let chain = NonNull::new(sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params()))?;
            let sampler = sys::llama_sampler_init((&raw const INTERFACE).cast_mut(), null_mut());
            sys::llama_sampler_chain_add(chain.as_ptr(), sampler);
            Some(Self(chain))
        }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_sampler {
        self.0.as_ptr()
    }
}

impl Drop for NoSampler {
    fn drop(&mut self) {
        // SAFETY: the chain is ours and freed once. By contract no context uses it any more.
        unsafe { sys::llama_sampler_free(self.0.as_ptr()) };
    }
}

unsafe extern "C" fn name(_: *const sys::llama_sampler) -> *const c_char {
    const NAME: &CStr = c"none";
    NAME.as_ptr()
}

unsafe extern "C" fn apply(_: *mut sys::llama_sampler, _: *mut sys::llama_token_data_array) {}

unsafe extern "C" fn backend_init(_: *mut sys::llama_sampler, _: sys::ggml_backend_buffer_type_t, _: u32) -> bool {
    true
}

unsafe extern "C" fn backend_apply(
    _: *mut sys::llama_sampler,
    _: *mut sys::ggml_context,
    _: *mut sys::ggml_cgraph,
    data: *mut sys::llama_sampler_data,
) {
    // SAFETY: llama.cpp passes a valid struct, which it reads after this returns. It copies no logits if this pointer
    // is null.
    unsafe { (*data).logits = null_mut() };
}
