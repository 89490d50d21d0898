//! What kernels use of ggml's CPU backend. With `dynamic-backends` no program can link to it: ggml loads the one that fits the CPU at
//! run time, and the functions are looked up in that library.

#[cfg(feature = "dynamic-backends")]
use std::ffi::CStr;
use std::ffi::c_void;
use std::sync::OnceLock;

use llama_cpp_sys_2 as sys;

use crate::llama::{BufferType, Device, amx_is_broken};

/// Returns what the CPU backend has for a type, by its number; a constant.
type Traits = unsafe extern "C" fn(sys::ggml_type) -> *const sys::ggml_type_traits_cpu;
/// Converts four rows of activations, which follow one another, as for repacked `Q4_K`.
pub(super) type ConvertFour = unsafe extern "C" fn(*const f32, *mut c_void, i64);
/// Lists buffer types that only the CPU backend reads, up to a null.
type ExtraBufferTypes = unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *mut sys::ggml_backend_buffer_type_t;

struct Functions {
    traits: Traits,
    convert_four: ConvertFour,
}

/// Returns the CPU backend's table entry for a type; `None` if the backend cannot be found.
pub(super) fn traits(type_: sys::ggml_type) -> Option<&'static sys::ggml_type_traits_cpu> {
    // SAFETY: ggml has an entry for every type, which lives as long as the process.
    functions().and_then(|functions| unsafe { (functions.traits)(type_).as_ref() })
}

/// Returns the conversion of activations for repacked `Q4_K`.
pub(super) fn convert_four() -> Option<ConvertFour> {
    functions().map(|functions| functions.convert_four)
}

/// Returns the type of the buffers that hold repacked weights, if the CPU backend has any.
pub(super) fn repacked() -> Option<BufferType> {
    static FOUND: OnceLock<Option<BufferType>> = OnceLock::new();
    *FOUND.get_or_init(|| find_extra("CPU_REPACK"))
}

/// Returns the type of the buffers that hold weights for AMX, if the CPU backend has any and can multiply with them.
pub(super) fn amx() -> Option<BufferType> {
    static FOUND: OnceLock<Option<BufferType>> = OnceLock::new();
    *FOUND.get_or_init(|| if amx_is_broken() { None } else { find_extra("AMX") })
}

fn find_extra(name: &str) -> Option<BufferType> {
    let device = Device::cpu()?;
    let list = device.function(c"ggml_backend_dev_get_extra_bufts")?;
    // SAFETY: the function that ggml's CPU backend registers under this name has this type. Its list of that backend's types ends
    // with a null.
    unsafe {
        let list = std::mem::transmute::<*mut c_void, ExtraBufferTypes>(list.as_ptr())(device.as_ptr());
        (0..).map_while(|i| BufferType::new(*list.add(i))).find(|type_| type_.name() == name)
    }
}

fn functions() -> Option<&'static Functions> {
    static FOUND: OnceLock<Option<Functions>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref()
}

#[cfg(not(feature = "dynamic-backends"))]
#[expect(clippy::unnecessary_wraps, reason = "the other form can fail")]
fn find() -> Option<Functions> {
    unsafe extern "C" {
        fn ggml_quantize_mat_q8_K_4x8(rows: *const f32, to: *mut c_void, k: i64);
    }
    Some(Functions { traits: sys::ggml_get_type_traits_cpu, convert_four: ggml_quantize_mat_q8_K_4x8 })
}

#[cfg(feature = "dynamic-backends")]
fn find() -> Option<Functions> {
    use std::ptr::NonNull;

    let one_of_its = Device::cpu()?.function(c"ggml_backend_set_n_threads")?;
    // SAFETY: `dladdr` fills a local and says which library has the function. That library is loaded, and ggml never unloads the
    // one that it registered, so opening it again only returns its handle. The two functions have these types.
    unsafe {
        let mut library = std::mem::zeroed::<libc::Dl_info>();
        if libc::dladdr(one_of_its.as_ptr(), &raw mut library) == 0 {
            return None;
        }
        let library = NonNull::new(libc::dlopen(library.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD))?;
        let symbol = |name: &CStr| NonNull::new(libc::dlsym(library.as_ptr(), name.as_ptr()));
        Some(Functions {
            traits: std::mem::transmute::<NonNull<c_void>, Traits>(symbol(c"ggml_get_type_traits_cpu")?),
            convert_four: std::mem::transmute::<NonNull<c_void>, ConvertFour>(symbol(c"ggml_quantize_mat_q8_K_4x8")?),
        })
    }
}
