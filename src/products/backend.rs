//! The functions that ggml calls, through the shim in `vendor/products`. Nothing unwinds out of them.

use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_cpp_sys_2 as sys;

use crate::llama::BufferType;

use super::cpu;
use super::ffi;
use super::product::Product;
use super::state::State;

static FUNCTIONS: ffi::imatrix_products_functions = ffi::imatrix_products_functions {
    create: Some(create),
    destroy: Some(destroy),
    set_threads: Some(set_threads),
    supports: Some(supports),
    compute: Some(compute),
};

/// Registers the backend with ggml.
///
/// # Safety
/// Called once, after ggml's registry has been filled and while no other thread uses it.
pub(super) unsafe fn register(name: &'static CStr) {
    let [repacked, amx] =
        [cpu::repacked(), cpu::amx()].map(|type_| type_.map_or(std::ptr::null_mut(), BufferType::as_ptr));
    // SAFETY: our own contract; the name and the functions live as long as the process.
    unsafe { ffi::imatrix_products_register(name.as_ptr(), &raw const FUNCTIONS, repacked, amx) };
}

extern "C" fn create() -> *mut c_void {
    Box::into_raw(Box::new(State::new())).cast()
}

unsafe extern "C" fn destroy(state: *mut c_void) {
    // SAFETY: ggml passes a pointer that create() returned, once, and does not use it afterwards.
    drop(unsafe { Box::from_raw(state.cast::<State>()) });
}

unsafe extern "C" fn set_threads(state: *mut c_void, threads: c_int) {
    // SAFETY: create() returned the state, and a context uses its backends from one thread at a time, so this is the
    // only reference.
    let state = unsafe { &mut *state.cast::<State>() };
    state.set_threads(usize::try_from(threads).unwrap_or(1));
}

unsafe extern "C" fn supports(node: *const sys::ggml_tensor) -> bool {
    // SAFETY: ggml passes a live node, whose sources are alive too. After a panic, which would be a bug, ggml computes
    // the node.
    catch_unwind(|| unsafe { node.as_ref().is_some_and(|node| Product::is_taken(node)) }).unwrap_or(false)
}

unsafe extern "C" fn compute(state: *mut c_void, node: *mut sys::ggml_tensor) -> bool {
    // SAFETY: as in set_threads(). ggml has computed the node's sources, and waits until this returns.
    let compute = || unsafe {
        let state = &mut *state.cast::<State>();
        let node = &*node;
        let kernel = Product::kernel(node)?;
        Product::new(node, kernel).map(|product| state.compute(&product))
    };
    catch_unwind(AssertUnwindSafe(compute)).ok().flatten().unwrap_or(false)
}
