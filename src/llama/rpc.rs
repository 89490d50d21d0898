//! Servers that lend their devices, ggml's RPC: finding them, being one, and losing one.

use std::ffi::{CStr, CString, c_char, c_void};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use llama_cpp_sys_2 as sys;

use super::log::with_reason;
use super::{Backend, Device, Error};

/// How long a server may take to answer: one that is busy with somebody else does not.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a lost one is looked for.
const LOST_TIMEOUT: Duration = Duration::from_secs(1);

/// The protocol of the ggml that is linked, `RPC_PROTO_MAJOR_VERSION` and `_MINOR_` of its `ggml-rpc.h`: bindings have
/// neither, and with another major version, or a later minor one, ggml aborts the process.
const PROTOCOL: (u8, u8) = (7, 0);
/// The first command of a connection, and the bytes of what each side says it can do.
const HELLO: u8 = 14;
const CAPABILITIES: usize = 24;

static SERVERS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Backend {
    /// Makes the devices of the RPC server at `endpoint` (`host:port`) ours.
    ///
    /// # Errors
    /// [`Error::Rpc`] where this build has no RPC, nobody answers, or it is no server of this protocol: ggml would abort
    /// the process.
    pub fn add_rpc_server(&self, endpoint: &str) -> Result<(), Error> {
        let error = |reason: String| Error::Rpc { endpoint: endpoint.to_owned(), reason };
        let add = rpc_function(c"ggml_backend_rpc_add_server");
        let add = add.ok_or_else(|| error("RPC not supported in this build".to_owned()))?;
        // SAFETY: under this name the RPC registry hands out a function of exactly this signature.
        let add = unsafe { std::mem::transmute::<NonNull<c_void>, AddServer>(add) };
        greet(endpoint).map_err(error)?;
        let c_endpoint = CString::new(endpoint).map_err(|_| error("a NUL byte in its name".to_owned()))?;
        SERVERS.lock().unwrap_or_else(PoisonError::into_inner).push(endpoint.to_owned());
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

/// Lends `devices` to whoever connects to `endpoint` (`host:port`), one client at a time, until the process ends. There is
/// no access control: name an address that only friends can reach. With a `cache`, weights that were sent once are kept
/// in that folder.
///
/// # Errors
/// [`Error::Rpc`] where this build has no RPC, or the server cannot listen.
pub fn serve_rpc(endpoint: &str, devices: &[Device], n_threads: usize, cache: Option<&Path>) -> Result<(), Error> {
    let error = |reason: &str| Error::Rpc { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
    let start =
        rpc_function(c"ggml_backend_rpc_start_server").ok_or_else(|| error("RPC not supported in this build"))?;
    // SAFETY: under this name the RPC registry hands out a function of exactly this signature.
    let start = unsafe { std::mem::transmute::<NonNull<c_void>, StartServer>(start) };
    let c_string = |text: &str| CString::new(text).map_err(|_| error("a NUL byte in a name"));
    let c_endpoint = c_string(endpoint)?;
    let cache = cache.map(|path| path.to_str().ok_or_else(|| error("the cache's name is not UTF-8"))).transpose()?;
    let cache = cache.map(c_string).transpose()?;
    let cache = cache.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
    let mut devices: Vec<_> = devices.iter().map(|device| device.as_ptr()).collect();
    // SAFETY: strings and devices outlive the call; without a folder there is no cache.
    unsafe { start(c_endpoint.as_ptr(), cache, n_threads, devices.len(), devices.as_mut_ptr()) };
    Err(error("it stopped listening, or never could: is the address another program's?"))
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

/// Says hello as ggml does, and compares versions.
fn greet(endpoint: &str) -> Result<(), String> {
    let mut stream = connect(endpoint, TIMEOUT).map_err(|error| error.to_string())?;
    let mut hello = vec![HELLO];
    hello.extend((CAPABILITIES as u64).to_le_bytes());
    hello.extend([0; CAPABILITIES]);
    let (major, minor) =
        stream.write_all(&hello).and_then(|()| read_version(&mut stream)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer in {} seconds: is it busy with another client?", TIMEOUT.as_secs())
            }
            _ => "it does not answer as an RPC server of this version of ggml does".to_owned(),
        })?;
    if major == PROTOCOL.0 && minor <= PROTOCOL.1 {
        return Ok(());
    }
    let (own_major, own_minor) = PROTOCOL;
    Err(format!("it speaks version {major}.{minor} of the protocol, this program {own_major}.{own_minor}"))
}

/// Size, then version, then what else there is.
fn read_version(stream: &mut TcpStream) -> io::Result<(u8, u8)> {
    let mut size = [0; 8];
    stream.read_exact(&mut size)?;
    if !(3..=256).contains(&u64::from_le_bytes(size)) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut version = [0; 3];
    stream.read_exact(&mut version)?;
    Ok((version[0], version[1]))
}

fn connect(endpoint: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in endpoint.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

type Hook = Box<dyn Fn(&str) + Send + Sync>;
static HOOK: OnceLock<Hook> = OnceLock::new();

/// Where a server is lost in the midst of a run, ggml aborts the process from whatever thread notices. With this, `hook`
/// is told what happened instead, with the server's name, and then the process exits with code 1. Set once.
pub fn on_lost_server(hook: impl Fn(&str) + Send + Sync + 'static) {
    if HOOK.set(Box::new(hook)).is_ok() {
        // SAFETY: the callback is a plain function that lives as long as the process, and does not return to what has
        // failed.
        unsafe { sys::ggml_set_abort_callback(Some(on_abort)) };
    }
}

unsafe extern "C" fn on_abort(message: *const c_char) {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    // SAFETY: ggml passes a NUL-terminated string that lives until the callback returns.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    if BEGUN.swap(true, Ordering::SeqCst) {
        // Another thread is at it, and ends the process.
        std::thread::sleep(Duration::from_secs(60));
    }
    let failed = std::panic::catch_unwind(|| {
        let Some(what) = lost(&message) else { return false };
        if let Some(hook) = HOOK.get() {
            hook(&what);
        }
        true
    });
    if matches!(failed, Ok(true)) {
        // Without what is run at exit: other threads wait for a server that is gone.
        #[cfg(unix)]
        // SAFETY: ends the process; no other thread's state is touched.
        unsafe {
            libc::_exit(1)
        };
        #[cfg(not(unix))]
        #[expect(clippy::exit, reason = "the alternative is an abort")]
        std::process::exit(1);
    }
    // As without a callback: ggml aborts once this returns.
    let _ = writeln!(io::stderr(), "{message}");
}

/// What to say of this message, if it is about a server.
fn lost(message: &str) -> Option<String> {
    let servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, endpoint)) = message.split_once("Failed to connect to ") {
        return Some(format!("RPC server '{}' cannot be reached any more", endpoint.trim()));
    }
    if let Some((_, endpoint)) = message.split_once("RPC handshake failed for ") {
        return Some(format!("RPC server '{}' speaks another version of the protocol", endpoint.trim()));
    }
    if !message.contains("Remote RPC server crashed") {
        return None;
    }
    let gone: Vec<_> = servers.iter().filter(|server| connect(server, LOST_TIMEOUT).is_err()).collect();
    let one_of = if gone.is_empty() { servers.iter().collect() } else { gone };
    let names = one_of.iter().map(|server| format!("'{server}'")).collect::<Vec<_>>().join(" or ");
    Some(format!("RPC server {names} is gone: it ended, failed, or the connection to it broke"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What a client is told that connects to somebody who answers with `answer`.
    fn greeted_with(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 1 + 8 + CAPABILITIES];
            stream.read_exact(&mut hello).unwrap();
            assert_eq!(hello[..9], [HELLO, CAPABILITIES as u8, 0, 0, 0, 0, 0, 0, 0]);
            stream.write_all(answer).unwrap();
        });
        let result = greet(&endpoint);
        server.join().unwrap();
        result
    }

    #[test]
    fn servers_of_other_versions_and_no_servers_are_told_apart() {
        assert_eq!(greeted_with(&[28, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3, 0]), Ok(()));
        let old = greeted_with(&[3, 0, 0, 0, 0, 0, 0, 0, 3, 5, 0]).unwrap_err();
        assert_eq!(old, "it speaks version 3.5 of the protocol, this program 7.0");
        assert!(greeted_with(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err().contains("does not answer as"));
        assert!(greeted_with(b"").unwrap_err().contains("does not answer as"));
    }

    #[test]
    fn only_what_is_about_servers_is_taken_for_a_lost_one() {
        assert_eq!(lost("ggml.c:3: GGML_ASSERT(false) failed"), None);
        assert!(lost("rpc.cpp:9: Failed to connect to far:1\n").unwrap().contains("'far:1'"));
        assert!(lost("rpc.cpp:9: Remote RPC server crashed or returned malformed response").is_some());
    }
}
