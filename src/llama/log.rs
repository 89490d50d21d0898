//! llama.cpp's log, handed to a Rust closure; its error lines kept for our own messages.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use llama_cpp_sys_2 as sys;

/// Level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Details for developers.
    Debug,
    /// Information.
    Info,
    /// Something is not as expected.
    Warn,
    /// Something failed.
    Error,
    /// Goes on with the line before, at its level.
    Continue,
}

type Sink = Box<dyn Fn(Level, &str) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();
static ERRORS: Mutex<String> = Mutex::new(String::new());

/// Sends llama.cpp's and ggml's log to `sink`, once a process: a later call keeps the first sink and returns `false`.
///
/// Text comes in pieces with their own line ends. Without this call nothing is logged by this crate's types, yet
/// errors still carry llama.cpp's reason.
pub fn set_log(sink: impl Fn(Level, &str) + Send + Sync + 'static) -> bool {
    let first = SINK.set(Box::new(sink)).is_ok();
    install();
    first
}

/// Routes llama.cpp's log here instead of to standard error, once: decodes come through here on any thread, and
/// llama.cpp sets its callback without a lock.
fn install() {
    static INSTALLED: Once = Once::new();
    // SAFETY: `on_log` is a plain function that neither unwinds nor uses its user data, for as long as the process lives.
    INSTALLED.call_once(|| unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) });
}

/// A line of our own among llama.cpp's.
pub(super) fn say(level: Level, text: &str) {
    if let Some(sink) = SINK.get() {
        sink(level, text);
    }
}

/// Runs one call into llama.cpp and returns what it logged as errors meanwhile, on one line.
///
/// Calls on other threads mix in their lines: the text explains, it does not decide.
pub(super) fn with_reason<T>(call: impl FnOnce() -> T) -> (T, String) {
    install();
    lock().clear();
    let result = call();
    let reason = lock().split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    (result, if reason.is_empty() { "llama.cpp gave no reason".to_owned() } else { reason })
}

/// A reason, and what to do about it where memory ran out.
pub(super) fn with_advice(reason: String) -> String {
    if !reason.contains("to allocate") && !reason.contains("out of memory") {
        return reason;
    }
    format!(
        "{reason}; fewer layers on the device (--n-gpu-layers), a smaller --ubatch-size or --batch-size, or --lanes 1 \
         need less of its memory"
    )
}

fn lock() -> std::sync::MutexGuard<'static, String> {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    // Unwinding into C++ is undefined behaviour and a log line is worth no abort: a panicking sink loses its line.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if text.is_null() {
            return;
        }
        // SAFETY: llama.cpp passes a NUL-terminated string that lives until the callback returns.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        let level = match level {
            sys::GGML_LOG_LEVEL_ERROR => Level::Error,
            sys::GGML_LOG_LEVEL_WARN => Level::Warn,
            sys::GGML_LOG_LEVEL_DEBUG => Level::Debug,
            sys::GGML_LOG_LEVEL_CONT => Level::Continue,
            _ => Level::Info,
        };
        if level == Level::Error {
            lock().push_str(&text);
        }
        if let Some(sink) = SINK.get() {
            sink(level, &text);
        }
    }));
}
