//! ggml's devices and their memory.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Backend;

/// A device of ggml's registry: a CPU, a GPU, an accelerator, a device of an RPC server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(NonNull<sys::ggml_backend_device>);

// SAFETY: a device lives as long as the process: this crate removes none from ggml's registry. Through this type it is
// only read.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// A kind of memory that holds tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferType(NonNull<sys::ggml_backend_buffer_type>);

// SAFETY: a buffer type belongs to a device, so it lives as long as the process. Through this type it is only read.
unsafe impl Send for BufferType {}
// SAFETY: as above.
unsafe impl Sync for BufferType {}

/// Name of the device behind [`products`](crate::products). It has no memory and holds no layers, so it is not among
/// the devices to choose from.
pub(crate) const PRODUCTS: &CStr = c"PRODUCTS";

impl Device {
    pub(super) fn new(ptr: sys::ggml_backend_dev_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    /// Returns the CPU.
    pub(crate) fn cpu() -> Option<Self> {
        // SAFETY: reads ggml's registry.
        Self::new(unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) })
    }

    /// Returns the device of [`products`](crate::products), if it has been registered.
    pub(super) fn products() -> Option<Self> {
        // SAFETY: reads ggml's registry; the name ends with a NUL.
        Self::new(unsafe { sys::ggml_backend_dev_by_name(PRODUCTS.as_ptr()) })
    }

    /// Returns its short name, such as `CUDA0`.
    #[must_use]
    pub fn name(self) -> String {
        // SAFETY: the device is alive; its name is a NUL-terminated string that lives as long as the device.
        unsafe { text(sys::ggml_backend_dev_name(self.0.as_ptr())) }
    }

    /// Returns its description, such as `NVIDIA H200`.
    #[must_use]
    pub fn description(self) -> String {
        // SAFETY: as in name().
        unsafe { text(sys::ggml_backend_dev_description(self.0.as_ptr())) }
    }

    /// Returns the bytes of memory that are free, and all.
    #[must_use]
    pub fn memory(self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device is the registry's, both pointers are to locals.
        unsafe { sys::ggml_backend_dev_memory(self.0.as_ptr(), &raw mut free, &raw mut total) };
        (free, total)
    }

    /// Returns true for the CPU.
    #[must_use]
    pub fn is_cpu(self) -> bool {
        // SAFETY: the device is the registry's.
        unsafe { sys::ggml_backend_dev_type(self.0.as_ptr()) == sys::GGML_BACKEND_DEVICE_TYPE_CPU }
    }

    /// Returns true for a device of an RPC server.
    #[must_use]
    pub fn is_remote(self) -> bool {
        // SAFETY: every device has a backend registry, whose name lives as long, as in name().
        let name = unsafe { text(sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(self.0.as_ptr()))) };
        name.starts_with("RPC")
    }

    /// Returns the buffer type of the device's tensors.
    #[must_use]
    pub fn buffer_type(self) -> Option<BufferType> {
        // SAFETY: the device is the registry's; what it returns lives as long.
        NonNull::new(unsafe { sys::ggml_backend_dev_buffer_type(self.0.as_ptr()) }).map(BufferType)
    }

    /// Returns the device that computes tensors in this memory.
    ///
    /// # Safety
    /// `buffer_type` is a buffer type of a device in the registry.
    pub(super) unsafe fn of_buffer_type(buffer_type: sys::ggml_backend_buffer_type_t) -> Option<Self> {
        // SAFETY: by contract.
        NonNull::new(unsafe { sys::ggml_backend_buft_get_device(buffer_type) }).map(Self)
    }

    /// Returns a function that its backend has registered under a name. A backend that ggml loads at run time cannot be linked
    /// to. The function's type is for the caller to know.
    pub(crate) fn function(self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: every device has a registry.
        unsafe { registered(sys::ggml_backend_dev_backend_reg(self.0.as_ptr()), name) }
    }

    pub(crate) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0.as_ptr()
    }
}

impl BufferType {
    /// # Safety
    /// `ptr` is null, or a buffer type that belongs to a device in the registry.
    #[cfg(products)]
    pub(crate) unsafe fn new(ptr: sys::ggml_backend_buffer_type_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    /// Returns its name, such as `CPU` or `CUDA0`.
    #[must_use]
    pub fn name(self) -> String {
        // SAFETY: as Device::name.
        unsafe { text(sys::ggml_backend_buft_name(self.0.as_ptr())) }
    }

    pub(crate) fn as_ptr(self) -> sys::ggml_backend_buffer_type_t {
        self.0.as_ptr()
    }
}

impl Backend {
    /// Returns all devices that a model can be split over, in ggml's order.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        // SAFETY: init() has filled the registry; entries are appended to it and never removed.
        let count = unsafe { sys::ggml_backend_dev_count() };
        // SAFETY: `i` is below the count.
        let devices = (0..count).filter_map(|i| NonNull::new(unsafe { sys::ggml_backend_dev_get(i) }).map(Device));
        devices.filter(|device| device.name().as_bytes() != PRODUCTS.to_bytes()).collect()
    }
}

/// Returns the function that is registered under a name.
///
/// # Safety
/// `registry` is one of ggml's.
pub(super) unsafe fn registered(registry: sys::ggml_backend_reg_t, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: by contract; the name ends with a NUL.
    NonNull::new(unsafe { sys::ggml_backend_reg_get_proc_address(registry, name.as_ptr()) })
}

/// # Safety
/// `ptr` is null or a NUL-terminated string that lives during the call.
unsafe fn text(ptr: *const c_char) -> String {
    if ptr.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(ptr) }.to_string_lossy().into_owned()
}
