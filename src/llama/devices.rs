//! What can compute: ggml's devices, their memory, and servers that lend theirs.

use std::ffi::{CStr, CString, c_char, c_void};
use std::net::{TcpStream, ToSocketAddrs};
use std::ptr::NonNull;
use std::time::Duration;

use llama_cpp_sys_2 as sys;

use super::log::with_reason;
use super::{Backend, Error};

/// How long an RPC server may take to answer a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A device of ggml's registry: a CPU, a GPU, an accelerator, a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(NonNull<sys::ggml_backend_device>);

// SAFETY: devices are entries of a registry that lives as long as the process and are only read through this type.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// A kind of memory that holds tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferType(NonNull<sys::ggml_backend_buffer_type>);

// SAFETY: buffer types belong to devices and live and are read as they are.
unsafe impl Send for BufferType {}
// SAFETY: as above.
unsafe impl Sync for BufferType {}

impl Device {
    /// Its short name, such as `CUDA0`.
    #[must_use]
    pub fn name(self) -> String {
        // SAFETY: a device of the registry names itself with a NUL-terminated string that lives as long as it does.
        unsafe { text(sys::ggml_backend_dev_name(self.0.as_ptr())) }
    }

    /// What it is, such as `NVIDIA H200`.
    #[must_use]
    pub fn description(self) -> String {
        // SAFETY: as in name().
        unsafe { text(sys::ggml_backend_dev_description(self.0.as_ptr())) }
    }

    /// Bytes of memory: free, in all.
    #[must_use]
    pub fn memory(self) -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device is the registry's, both pointers are to locals.
        unsafe { sys::ggml_backend_dev_memory(self.0.as_ptr(), &raw mut free, &raw mut total) };
        (free, total)
    }

    /// Whether it is the CPU itself.
    #[must_use]
    pub fn is_cpu(self) -> bool {
        // SAFETY: the device is the registry's.
        unsafe { sys::ggml_backend_dev_type(self.0.as_ptr()) == sys::GGML_BACKEND_DEVICE_TYPE_CPU }
    }

    /// The memory its tensors lie in.
    #[must_use]
    pub fn buffer_type(self) -> Option<BufferType> {
        // SAFETY: the device is the registry's; what it returns lives as long.
        NonNull::new(unsafe { sys::ggml_backend_dev_buffer_type(self.0.as_ptr()) }).map(BufferType)
    }

    /// The device that tensors in this memory are computed on.
    ///
    /// # Safety
    /// It is a buffer type of the registry's.
    pub(super) unsafe fn of_buffer_type(buffer_type: sys::ggml_backend_buffer_type_t) -> Option<Self> {
        // SAFETY: by contract.
        NonNull::new(unsafe { sys::ggml_backend_buft_get_device(buffer_type) }).map(Self)
    }

    pub(super) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0.as_ptr()
    }
}

impl BufferType {
    /// Its name, such as `CPU` or `CUDA0`.
    #[must_use]
    pub fn name(self) -> String {
        // SAFETY: as Device::name.
        unsafe { text(sys::ggml_backend_buft_name(self.0.as_ptr())) }
    }

    pub(super) fn as_ptr(self) -> sys::ggml_backend_buffer_type_t {
        self.0.as_ptr()
    }
}

impl Backend {
    /// All devices, in ggml's order.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        // SAFETY: init() has filled the registry; entries are appended to it and never removed.
        let count = unsafe { sys::ggml_backend_dev_count() };
        // SAFETY: `i` is below the count.
        (0..count).filter_map(|i| NonNull::new(unsafe { sys::ggml_backend_dev_get(i) }).map(Device)).collect()
    }

    /// Makes the devices of the RPC server at `endpoint` (`host:port`) ours.
    ///
    /// # Errors
    /// [`Error::Rpc`] where this build has no RPC, or nobody answers: ggml would abort the process.
    pub fn add_rpc_server(&self, endpoint: &str) -> Result<(), Error> {
        let error = |reason: String| Error::Rpc { endpoint: endpoint.to_owned(), reason };
        let add = rpc_function(c"ggml_backend_rpc_add_server");
        let add = add.ok_or_else(|| error("RPC not supported in this build".to_owned()))?;
        // SAFETY: under this name the RPC registry hands out a function of exactly this signature.
        let add = unsafe { std::mem::transmute::<NonNull<c_void>, AddServer>(add) };
        probe(endpoint).map_err(|reason| error(reason.to_string()))?;
        let c_endpoint = CString::new(endpoint).map_err(|_| error("a NUL byte in its name".to_owned()))?;
        // SAFETY: ggml's own function of this signature; the string outlives the call, which copies it.
        let (server, reason) = with_reason(|| unsafe { add(c_endpoint.as_ptr()) });
        if server.is_null() {
            return Err(error(reason));
        }
        // SAFETY: a registry that add_server made, and that lives as long as the process.
        unsafe { sys::ggml_backend_register(server) };
        Ok(())
    }
}

/// Lends this machine's CPU to whoever connects to `endpoint` (`host:port`), until the process ends. There is no
/// access control: name an address that only friends can reach.
///
/// # Errors
/// [`Error::Rpc`] where this build has no RPC, or the server cannot listen.
pub fn serve_rpc(endpoint: &str, n_threads: usize) -> Result<(), Error> {
    let error = |reason: &str| Error::Rpc { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
    let mut devices: Vec<_> =
        Backend::init().devices().iter().filter(|device| device.is_cpu()).map(|device| device.as_ptr()).collect();
    let start =
        rpc_function(c"ggml_backend_rpc_start_server").ok_or_else(|| error("RPC not supported in this build"))?;
    // SAFETY: under this name the RPC registry hands out a function of exactly this signature.
    let start = unsafe { std::mem::transmute::<NonNull<c_void>, StartServer>(start) };
    let c_endpoint = CString::new(endpoint).map_err(|_| error("a NUL byte in its name"))?;
    // SAFETY: the address and the devices outlive the call; without a folder there is no cache.
    unsafe { start(c_endpoint.as_ptr(), std::ptr::null(), n_threads, devices.len(), devices.as_mut_ptr()) };
    Err(error("it stopped listening, or never could"))
}

type StartServer = unsafe extern "C" fn(*const c_char, *const c_char, usize, usize, *mut sys::ggml_backend_dev_t);
type AddServer = unsafe extern "C" fn(*const c_char) -> sys::ggml_backend_reg_t;

/// A function of ggml's RPC backend, looked up where it runs: not every build links it.
fn rpc_function(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: both names are NUL-terminated; a null registry is not asked.
    let function = unsafe {
        let rpc = sys::ggml_backend_reg_by_name(c"RPC".as_ptr());
        if rpc.is_null() {
            return None;
        }
        sys::ggml_backend_reg_get_proc_address(rpc, name.as_ptr())
    };
    NonNull::new(function)
}

fn probe(endpoint: &str) -> std::io::Result<()> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "no such host");
    for address in endpoint.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
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
