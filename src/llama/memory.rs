//! Host memory that is not resident before it is used: see `vendor/memory`.

#[cfg(fresh_memory)]
#[allow(unreachable_pub, reason = "generated")]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/memory.rs"));
}

/// Has ggml zero its large host buffers by taking fresh pages.
///
/// # Safety
/// Called once, before any buffer is made.
pub(super) unsafe fn install() {
    #[cfg(fresh_memory)]
    // SAFETY: our own contract.
    unsafe {
        shim::imatrix_memory_install();
    }
}
