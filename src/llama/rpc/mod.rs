//! ggml's RPC: using a remote server, running one, and handling the loss of one.

mod connection;
mod greeting;
mod lost;
mod pulse;
#[cfg(unix)]
mod sockets;
#[cfg(target_os = "linux")]
mod watchdog;

use std::ffi::{CStr, CString, c_char, c_void};
use std::net::SocketAddr;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llama_cpp_sys_2 as sys;

use super::devices::registered;
use super::log::with_reason;
use super::{Backend, Device, Error};
use connection::Connection;

pub use lost::{LostServer, on_lost_server};
pub(super) use pulse::Pulse;

/// Timeout for a server's greeting. A server that is busy with another client does not greet.
const GREETING: Duration = Duration::from_secs(10);

/// The servers in use. Entries are never removed; ggml never removes a server either.
static SERVERS: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// A server's endpoint as given, and the addresses that it resolved to.
#[derive(Debug, Clone)]
struct Server {
    endpoint: String,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no watchdog"))]
    addresses: Vec<SocketAddr>,
}

fn servers() -> MutexGuard<'static, Vec<Server>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    /// Adds the devices of the RPC server at `endpoint` (`host:port`) to those of this process. Call it before other threads use
    /// llama.cpp, since ggml does not lock its registry.
    ///
    /// # Errors
    /// [`Error::Rpc`] if this build has no RPC, the peer does not answer within 10 seconds, or it is not a server of
    /// this protocol: ggml would abort the process.
    pub fn add_rpc_server(&self, endpoint: &str) -> Result<(), Error> {
        let error = |reason: String| Error::Rpc { endpoint: endpoint.to_owned(), reason };
        let add = rpc_function(c"ggml_backend_rpc_add_server");
        let add = add.ok_or_else(|| error("RPC not supported in this build".to_owned()))?;
        // SAFETY: under this name ggml's RPC backend returns a function of exactly this type.
        let add = unsafe { std::mem::transmute::<NonNull<c_void>, AddServer>(add) };
        let c_endpoint = CString::new(endpoint).map_err(|_| error("a NUL byte in its name".to_owned()))?;
        let mut connection = Connection::open(endpoint, GREETING).map_err(|e| error(e.to_string()))?;
        greeting::greet(&mut connection).map_err(|refused| error(refused.to_string()))?;
        drop(connection); // the server takes one client at a time
        let addresses = connection::addresses(endpoint).map_err(|e| error(e.to_string()))?;
        servers().push(Server { endpoint: endpoint.to_owned(), addresses });
        // SAFETY: the string outlives the call, which copies it. ggml guards its list of servers with a lock.
        let (server, reason) = with_reason(|| unsafe { add(c_endpoint.as_ptr()) });
        if server.is_null() {
            return Err(error(reason));
        }
        // SAFETY: `add` has made this registry, which lives as long as the process.
        unsafe { sys::ggml_backend_register(server) };
        Ok(())
    }

    /// Watches the connections to RPC servers and closes one that has had no traffic for `timeout` while this process
    /// waits for it. ggml then fails, and [`on_lost_server`] tells which server it was: call that first, since without
    /// a hook ggml aborts the process. The first call counts.
    ///
    /// Once `hurry` is set, the bound is four times the longest silence so far that ended with an answer, at least 5
    /// seconds and at most `timeout`.
    ///
    /// A server that computes sends nothing either. While an observer watches a [`Context`](super::Context), it has the
    /// server answer in between, as often as about every second, so `timeout` must exceed the time that a server takes
    /// for the nodes between two of those that are observed: part of a layer.
    ///
    /// On Linux. Other systems do not tell what a thread waits for: there only a lost network ends a connection.
    pub fn watch_rpc_servers(&self, timeout: Duration, hurry: Arc<AtomicBool>) {
        #[cfg(target_os = "linux")]
        watchdog::start(timeout, hurry);
        #[cfg(not(target_os = "linux"))]
        let _ = (timeout, hurry);
    }
}

/// Runs an RPC server for `devices` at `endpoint` (`host:port`), one client at a time, until the process ends. There is
/// no access control: use an address that only trusted machines can reach. With a `cache`, weights that were sent once
/// are kept in that folder. On Unix, a client whose machine has not answered for `client_timeout` is disconnected; 0
/// waits for ever.
///
/// # Errors
/// [`Error::Rpc`] where this build has no RPC, no device is given, or the server cannot listen.
pub fn serve_rpc(
    endpoint: &str,
    devices: &[Device],
    n_threads: usize,
    cache: Option<&Path>,
    client_timeout: Duration,
) -> Result<(), Error> {
    let error = |reason: &str| Error::Rpc { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
    let start =
        rpc_function(c"ggml_backend_rpc_start_server").ok_or_else(|| error("RPC not supported in this build"))?;
    // SAFETY: under this name ggml's RPC backend returns a function of exactly this type.
    let start = unsafe { std::mem::transmute::<NonNull<c_void>, StartServer>(start) };
    let c_string = |text: &str| CString::new(text).map_err(|_| error("a NUL byte in a name"));
    let c_endpoint = c_string(endpoint)?;
    let cache = cache.map(|path| path.to_str().ok_or_else(|| error("the cache's name is not UTF-8"))).transpose()?;
    let cache = cache.map(c_string).transpose()?;
    let cache = cache.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
    if devices.is_empty() {
        return Err(error("no device to lend"));
    }
    let mut devices: Vec<_> = devices.iter().map(|device| device.as_ptr()).collect();
    #[cfg(unix)]
    if !client_timeout.is_zero() {
        sockets::free_from_lost_clients(endpoint, client_timeout);
    }
    #[cfg(not(unix))]
    let _ = client_timeout;
    // SAFETY: the strings and the array of devices outlive the call; a null folder means no cache.
    unsafe { start(c_endpoint.as_ptr(), cache, n_threads, devices.len(), devices.as_mut_ptr()) };
    Err(error("it stopped listening, or never could: is the address another program's?"))
}

type StartServer = unsafe extern "C" fn(*const c_char, *const c_char, usize, usize, *mut sys::ggml_backend_dev_t);
type AddServer = unsafe extern "C" fn(*const c_char) -> sys::ggml_backend_reg_t;

/// Looks up a function of ggml's RPC backend at run time: not every build links it.
fn rpc_function(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the name is NUL-terminated.
    let rpc = NonNull::new(unsafe { sys::ggml_backend_reg_by_name(c"RPC".as_ptr()) })?;
    // SAFETY: the registry is ggml's.
    unsafe { registered(rpc.as_ptr(), name) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use greeting::{CAPABILITIES, HELLO, Refused};

    /// Returns the result for a client whose peer sends `answer`.
    fn greeted_by(answer: impl FnOnce(&mut TcpStream) + Send + 'static, timeout: Duration) -> Result<(), Refused> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 1 + 8 + CAPABILITIES];
            stream.read_exact(&mut hello).unwrap();
            assert_eq!(hello[..9], [HELLO, CAPABILITIES as u8, 0, 0, 0, 0, 0, 0, 0]);
            answer(&mut stream);
        });
        let result = greeting::greet(&mut Connection::open(&endpoint, timeout).unwrap());
        server.join().unwrap();
        result
    }

    fn greeted_with(answer: &'static [u8]) -> Result<(), Refused> {
        greeted_by(|stream| stream.write_all(answer).unwrap(), GREETING)
    }

    #[test]
    fn other_versions_and_other_programs_are_distinguished() {
        assert_eq!(greeted_with(&[28, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3, 0]), Ok(()));
        let old = greeted_with(&[3, 0, 0, 0, 0, 0, 0, 0, 3, 5, 0]).unwrap_err();
        assert_eq!(old, Refused::Version(3, 5));
        assert_eq!(old.to_string(), "it speaks version 3.5 of the protocol, this program 7.0");
        assert_eq!(greeted_with(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Err(Refused::NoServer));
        assert_eq!(greeted_with(b""), Err(Refused::NoServer));
    }

    /// A read timeout alone would start anew with each of the eleven bytes.
    #[test]
    fn a_peer_that_trickles_bytes_does_not_extend_the_deadline() {
        let trickle = |stream: &mut TcpStream| {
            for byte in [28, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3] {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        };
        let started = Instant::now();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            trickle(&mut stream);
        });
        let mut connection = Connection::open(&endpoint, Duration::from_millis(500)).unwrap();
        assert_eq!(greeting::greet(&mut connection), Err(Refused::NoAnswer));
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    }
}
