//! Standard output: data, which other programs read.

use std::io::{IsTerminal as _, Write};

use anyhow::Context as _;

use super::{log, progress};

/// Prints to standard output, as a part of the log: `--log-disable` and `--log-file` apply.
pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    log::output(text);
}

/// Prints a part of a list that the progress bar sums up: on one terminal with the bar it goes to the log's file alone.
pub(crate) fn print_series(text: std::fmt::Arguments<'_>) {
    if progress::visible() && std::io::stdout().is_terminal() {
        log::output_to_file(text);
    } else {
        log::output(text);
    }
}

/// Writes a document to standard output. A closed pipe (`| head`) is no failure.
pub(crate) fn print_document(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    unless_nobody_reads(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())).map(|_| ())
}

/// Returns the result of a write to standard output; `None` if the pipe was closed.
pub(crate) fn unless_nobody_reads<T>(written: std::io::Result<T>) -> anyhow::Result<Option<T>> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(None),
        other => other.map(Some).context("cannot write to standard output"),
    }
}
