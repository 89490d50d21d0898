//! The progress bar on standard error, where that is a terminal.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Set where nothing is logged: the bar is part of the log.
static DISABLED: AtomicBool = AtomicBool::new(false);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows no bar, if `disabled`.
pub(crate) fn set_disabled(disabled: bool) {
    DISABLED.store(disabled, Ordering::Relaxed);
}

/// Returns true if a bar can be seen: it is drawn on a terminal alone.
pub(crate) fn visible() -> bool {
    std::io::stderr().is_terminal() && !DISABLED.load(Ordering::Relaxed)
}

fn show(new: ProgressBar, template: &str) {
    if !visible() {
        return;
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        new.set_style(style);
    }
    new.enable_steady_tick(Duration::from_millis(200));
    *bar() = Some(new);
}

/// Shows a spinner, for work of unknown length.
pub(crate) fn spin(message: String) {
    show(ProgressBar::new_spinner().with_message(message), "{spinner} {msg} [{elapsed}]");
}

/// Shows a bar for `total` chunks.
pub(crate) fn start_chunks(total: usize) {
    show(
        ProgressBar::new(total as u64),
        "{bar:30} {pos}/{len} chunks [{elapsed} elapsed, {eta} left, {per_sec}] {msg}",
    );
}

/// Shows a bar for `total` weights.
#[cfg(feature = "llama")]
pub(crate) fn start_weights(total: usize) {
    show(ProgressBar::new(total as u64), "{bar:30} {pos}/{len} weights [{elapsed} elapsed, {eta} left]");
}

/// Sets the number of weights done.
#[cfg(feature = "llama")]
pub(crate) fn set_weights(done: usize) {
    if let Some(bar) = bar().as_ref() {
        bar.set_position(done as u64);
    }
}

/// Sets the number of chunks done.
pub(crate) fn set_chunks(done: usize, message: String) {
    if let Some(bar) = bar().as_ref() {
        bar.set_position(done as u64);
        bar.set_message(message);
    }
}

/// Shows a bar for `total` bytes, or a spinner if the total is unknown.
#[cfg(any(feature = "download", feature = "llama"))]
pub(crate) fn start_bytes(name: String, total: Option<u64>) {
    match total {
        Some(total) => show(
            ProgressBar::new(total).with_message(name),
            "{bar:30} {bytes}/{total_bytes} [{elapsed} elapsed, {eta} left, {bytes_per_sec}] {msg}",
        ),
        None => show(ProgressBar::new_spinner().with_message(name), "{spinner} {msg} {bytes} [{elapsed}]"),
    }
}

/// Sets the number of bytes done.
#[cfg(any(feature = "download", feature = "llama"))]
pub(crate) fn set_bytes(done: u64) {
    if let Some(bar) = bar().as_ref() {
        bar.set_position(done);
    }
}

/// Removes the bar.
pub(crate) fn finish() {
    if let Some(bar) = bar().take() {
        bar.finish_and_clear();
    }
}

/// Runs `write` while the bar is hidden.
pub(crate) fn suspended(write: impl FnOnce()) {
    match bar().as_ref() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}
