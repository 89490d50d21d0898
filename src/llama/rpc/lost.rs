//! Handles the loss of an RPC server during a run. ggml would abort the process from any of its threads. Here a hook of
//! the program runs first, and the process exits with the hook's code.

use std::ffi::{CStr, c_char};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use llama_cpp_sys_2 as sys;

use super::connection::Connection;
use super::servers;

/// Timeout per connection attempt while looking for the lost server.
const LOOK_FOR: Duration = Duration::from_secs(1);

/// A server that a run has lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LostServer {
    /// The connection has ended.
    #[error("RPC server {} is gone: it ended, failed, or the connection to it broke", one_of(servers))]
    Gone {
        /// The server, or the servers that it may be.
        servers: Vec<String>,
    },
    /// The connection is open, but has had no traffic for too long. See
    /// [`Backend::watch_rpc_servers`](crate::llama::Backend::watch_rpc_servers).
    #[error("RPC server '{server}' has not answered for {seconds} seconds: it is stopped, or the network to it is cut")]
    Silent {
        /// The server.
        server: String,
        /// Seconds without an answer.
        seconds: u64,
    },
    /// No new connection can be made.
    #[error("RPC server '{server}' cannot be reached any more")]
    Unreachable {
        /// The server.
        server: String,
    },
    /// The server answers with another version of the protocol than before.
    #[error("RPC server '{server}' speaks another version of the protocol")]
    OtherProtocol {
        /// The server.
        server: String,
    },
}

fn one_of(servers: &[String]) -> String {
    servers.iter().map(|server| format!("'{server}'")).collect::<Vec<_>>().join(" or ")
}

type Hook = Box<dyn Fn(&LostServer) -> i32 + Send + Sync>;
static HOOK: OnceLock<Hook> = OnceLock::new();
/// The silent server that the watchdog has found.
static SILENT: Mutex<Option<LostServer>> = Mutex::new(None);

/// Calls `hook` when a server is lost during a run. The process then exits with the code that the
/// hook returns. Without a hook ggml aborts the process. The first call counts.
pub fn on_lost_server(hook: impl Fn(&LostServer) -> i32 + Send + Sync + 'static) {
    if HOOK.set(Box::new(hook)).is_ok() {
        // SAFETY: the callback is a function of the program. It does not unwind, and ggml aborts the process if it
        // returns.
        unsafe { sys::ggml_set_abort_callback(Some(on_abort)) };
    }
}

/// Remembers a server whose connection is about to be ended, for the failure that this causes.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no watchdog"))]
pub(super) fn found_silent(server: &str, silence: Duration) {
    let lost = LostServer::Silent { server: server.to_owned(), seconds: silence.as_secs() };
    SILENT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(lost);
}

unsafe extern "C" fn on_abort(message: *const c_char) {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    // SAFETY: ggml passes a NUL-terminated string that lives until the callback returns.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    if BEGUN.swap(true, Ordering::SeqCst) {
        // Another thread already handles the failure and ends the process.
        std::thread::sleep(Duration::from_secs(60));
    }
    let code = std::panic::catch_unwind(|| {
        let lost = lost(&message)?;
        Some(HOOK.get().map_or(1, |hook| hook(&lost)))
    });
    if let Ok(Some(code)) = code {
        // `_exit` skips exit handlers: they could block on threads that wait for the lost server.
        #[cfg(unix)]
        // SAFETY: `_exit` may be called at any time: it runs no handlers and only ends the process.
        unsafe {
            libc::_exit(code)
        };
        #[cfg(not(unix))]
        #[expect(clippy::exit, reason = "the alternative is an abort")]
        std::process::exit(code);
    }
    // As without a callback: ggml aborts when this returns.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Returns the server that an abort message of ggml is about, if any.
fn lost(message: &str) -> Option<LostServer> {
    if let Some((_, server)) = message.split_once("Failed to connect to ") {
        return Some(LostServer::Unreachable { server: server.trim().to_owned() });
    }
    if let Some((_, server)) = message.split_once("RPC handshake failed for ") {
        return Some(LostServer::OtherProtocol { server: server.trim().to_owned() });
    }
    if !message.contains("Remote RPC server crashed") {
        return None;
    }
    if let Some(silent) = SILENT.lock().unwrap_or_else(PoisonError::into_inner).clone() {
        return Some(silent);
    }
    let all: Vec<_> = servers().iter().map(|server| server.endpoint.clone()).collect();
    let gone: Vec<_> = all.iter().filter(|server| Connection::open(server, LOOK_FOR).is_err()).cloned().collect();
    Some(LostServer::Gone { servers: if gone.is_empty() { all } else { gone } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abort_messages_about_servers_mean_a_lost_server() {
        assert_eq!(lost("ggml.c:3: GGML_ASSERT(false) failed"), None);
        assert!(lost("rpc.cpp:9: Failed to connect to far:1\n").unwrap().to_string().contains("'far:1'"));
        assert!(lost("rpc.cpp:9: Remote RPC server crashed or returned malformed response").is_some());
    }
}
