//! Host memory that becomes resident when it is written: see `vendor/memory`.

#[cfg(fresh_memory)]
#[allow(unreachable_pub, reason = "generated")]
mod shim {
    include!(concat!(env!("OUT_DIR"), "/memory.rs"));
}

/// Makes ggml allocate its large host buffers, and clear them, with fresh pages.
///
/// # Safety
/// No other thread makes a host buffer meanwhile: the call replaces a function pointer of ggml without a lock.
pub(super) unsafe fn install() {
    #[cfg(fresh_memory)]
    // SAFETY: our own contract.
    unsafe {
        shim::imatrix_memory_install();
    }
}
