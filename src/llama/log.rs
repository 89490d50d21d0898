//! llama.cpp's log, handed to a Rust closure; its error lines kept for our own messages.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Continues the previous line, at its level.
    Continue,
}

type Sink = Box<dyn Fn(Level, &str) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();
static ERRORS: Mutex<String> = Mutex::new(String::new());
static WITHOUT_DETAILS: AtomicBool = AtomicBool::new(false);

/// Sends llama.cpp's and ggml's log to `sink`. Only the first call per process has an effect; later calls return
/// `false`.
///
/// Text comes in pieces, which contain the line ends. Without this call this crate logs nothing; errors still contain
/// llama.cpp's reason.
pub fn set_log(sink: impl Fn(Level, &str) + Send + Sync + 'static) -> bool {
    let first = SINK.set(Box::new(sink)).is_ok();
    install();
    first
}

/// Sets `on_log` as llama.cpp's log callback, once: decodes call this on any thread, and llama.cpp sets the callback
/// without a lock.
fn install() {
    static INSTALLED: Once = Once::new();
    // SAFETY: `on_log` is a function of the program, which does not unwind and does not use its user data.
    INSTALLED.call_once(|| unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) });
}

/// Logs a line of our own.
pub(super) fn say(level: Level, text: &str) {
    if let Some(sink) = SINK.get() {
        sink(level, text);
    }
}

/// Runs a call without the debug lines that ggml logs meanwhile, on any thread.
#[cfg(products)]
pub(crate) fn without_details<T>(call: impl FnOnce() -> T) -> T {
    install();
    WITHOUT_DETAILS.store(true, Ordering::Relaxed);
    let result = call();
    WITHOUT_DETAILS.store(false, Ordering::Relaxed);
    result
}

/// Runs one call into llama.cpp and returns what it logged as errors meanwhile, on one line.
///
/// Lines of calls on other threads may be among them: use the text as an explanation only.
pub(super) fn with_reason<T>(call: impl FnOnce() -> T) -> (T, String) {
    install();
    lock().clear();
    let result = call();
    let reason = lock().split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    (result, if reason.is_empty() { "llama.cpp gave no reason".to_owned() } else { reason })
}

/// Appends a hint to a reason if memory ran out.
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
    // A panic must not unwind into C++. If the sink panics, its line is lost.
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
        let hidden = level == Level::Debug && WITHOUT_DETAILS.load(Ordering::Relaxed);
        if let Some(sink) = SINK.get().filter(|_| !hidden) {
            sink(level, &text);
        }
    }));
}
