//! The log on standard error. Standard output is data: what scripts read of llama.cpp's tool, and nothing else.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::progress;

/// llama.cpp's verbosity levels: a message is shown if its level is at most the threshold.
pub(crate) mod level {
    pub(crate) const ERROR: i32 = 1;
    pub(crate) const WARN: i32 = 2;
    pub(crate) const INFO: i32 = 3;
    pub(crate) const TRACE: i32 = 4;
    pub(crate) const DEBUG: i32 = 5;
}

static VERBOSITY: AtomicI32 = AtomicI32::new(level::INFO);

pub(crate) fn set_verbosity(threshold: i32) {
    VERBOSITY.store(threshold, Ordering::Relaxed);
}

pub(crate) fn verbosity() -> i32 {
    VERBOSITY.load(Ordering::Relaxed)
}

pub(crate) fn error(message: fmt::Arguments<'_>) {
    line(level::ERROR, "error: ", message);
}

pub(crate) fn warn(message: fmt::Arguments<'_>) {
    line(level::WARN, "warning: ", message);
}

pub(crate) fn info(message: fmt::Arguments<'_>) {
    line(level::INFO, "", message);
}

fn line(level: i32, prefix: &str, message: fmt::Arguments<'_>) {
    if level <= verbosity() {
        write(format_args!("{prefix}{message}\n"));
    }
}

/// Whole lines or pieces of them, above the progress bar. A closed standard error is no reason to stop.
fn write(text: fmt::Arguments<'_>) {
    progress::suspended(|| {
        let _ = std::io::stderr().lock().write_fmt(text);
    });
}

/// Shows llama.cpp's own log at the levels llama.cpp's tools show it: its information is trace to them.
#[cfg(feature = "llama")]
pub(crate) fn forward_llama_log() {
    use llama_imatrix::llama::{Level, set_log};
    set_log(|level, text| {
        let level = match level {
            Level::Error => level::ERROR,
            Level::Warn => level::WARN,
            Level::Debug => level::DEBUG,
            _ => level::TRACE,
        };
        if level <= verbosity() {
            write(format_args!("{text}"));
        }
    });
}
