//! Standard output: data, which other programs read.

use std::io::Write;

use anyhow::Context as _;

use super::log;

/// Standard output, as llama.cpp's tool prints it; the log may be set to do otherwise.
pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    log::output(text);
}

/// Writes to standard output. Nobody reading on (`| head`) is no failure.
pub(crate) fn print_document(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    unless_nobody_reads(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())).map(|_| ())
}

/// The result of writing to standard output; `None` where nobody reads it any more.
pub(crate) fn unless_nobody_reads<T>(written: std::io::Result<T>) -> anyhow::Result<Option<T>> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(None),
        other => other.map(Some).context("cannot write to standard output"),
    }
}
