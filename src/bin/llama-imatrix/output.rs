//! Where the matrix goes: checked before the run, written whole, never lost.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::imatrix::{Format, Imatrix, Values, check_writable};
use llama_imatrix::perplexity::Estimate;
use llama_imatrix::state::ChunkSet;

use crate::log;

/// The output file and its format.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    format: Format,
}

impl Output {
    /// Finds out now whether the file can be written, not after hours.
    ///
    /// Where no format is given, the suffix `.dat` means that format.
    pub(crate) fn new(path: PathBuf, format: Option<Format>) -> anyhow::Result<Self> {
        ensure!(!path.as_os_str().is_empty(), "--output names no file");
        ensure!(!path.is_dir(), "cannot write '{}': it is a folder", path.display());
        check_writable(&path).with_context(|| format!("cannot write '{}'", path.display()))?;
        let suffix = path.extension().and_then(|extension| extension.to_str());
        let format = match (format, suffix) {
            (Some(format), _) => format,
            (None, Some("dat")) => Format::Dat,
            (None, Some("gguf")) => Format::Gguf,
            (None, _) => {
                log::warn(format_args!("saving imatrix using GGUF format with a different suffix than .gguf"));
                log::warn(format_args!("if you want the previous imatrix format, use --output-format dat"));
                Format::Gguf
            }
        };
        Ok(Self { path, format })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is, or will be, a file; a device or a pipe has nothing beside it.
    pub(crate) fn is_file(&self) -> bool {
        self.path.metadata().map_or(true, |metadata| metadata.is_file())
    }

    /// Replaces the file, or writes a copy named after `chunks`.
    pub(crate) fn save(&self, imatrix: &Imatrix<impl Values>, copy: Option<i32>) -> anyhow::Result<()> {
        let mut name = self.path.clone().into_os_string();
        if let Some(chunks) = copy {
            name.push(format!(".at_{chunks}"));
        }
        let path = PathBuf::from(name);
        imatrix.save(&path, self.format).with_context(|| format!("cannot save '{}'", path.display()))
    }

    /// Replaces the file; where that fails at the end of a run, leaves the matrix in the temporary folder rather than
    /// lose it.
    pub(crate) fn save_final(&self, imatrix: &Imatrix<impl Values>) -> anyhow::Result<()> {
        let Err(error) = self.save(imatrix, None) else { return Ok(()) };
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        let rescue = std::env::temp_dir().join(format!("{}-{}", std::process::id(), Path::new(name).display()));
        match imatrix.save(&rescue, self.format) {
            Ok(()) => bail!("{error:#}; the matrix is in '{}' instead", rescue.display()),
            Err(_) => Err(error),
        }
    }
}

/// Standard output, as llama.cpp's tool prints it; the log may be set to do otherwise.
pub(crate) fn print(text: std::fmt::Arguments<'_>) {
    log::output(text);
}

/// What was asked for instead of a run; nobody reading it is no reason to fail.
pub(crate) fn print_document(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The empty line that a save leaves on standard output.
pub(crate) fn print_saved() {
    if log::verbosity() >= 1 {
        print(format_args!("\n"));
    }
}

/// The perplexity of the whole text, on standard output.
pub(crate) fn print_estimate(estimate: &Estimate) {
    match estimate.error {
        Some(error) => print(format_args!("Final estimate: PPL = {:.4} +/- {error:.5}\n", estimate.value)),
        None => print(format_args!("Unexpected negative standard deviation of log(prob)\n")),
    }
}

/// Says which chunks are missing in the result.
pub(crate) fn warn_of_discarded(discarded: &ChunkSet) {
    if !discarded.is_empty() {
        let (n, s) = (discarded.len(), if discarded.len() == 1 { "" } else { "s" });
        log::warn(format_args!("{n} chunk{s} discarded, with activations that are not finite: {discarded}"));
    }
}

/// Says what the legacy format cannot hold.
pub(crate) fn warn_of_dat(output: &Output, imatrix: &Imatrix<impl Values>) {
    if let (Format::Dat, [_, .., last]) = (output.format, &imatrix.datasets[..]) {
        log::warn(format_args!("a .dat file names one data set, the last: '{last}'"));
    }
}

/// Says which weights have seen too little.
pub(crate) fn warn_of_gaps(imatrix: &Imatrix<impl Values>) {
    for gap in imatrix.coverage() {
        if gap.is_empty() {
            log::warn(format_args!("entry '{}' has no data", gap.name));
        } else {
            log::warn(format_args!(
                "entry '{}' has partial data ({:.2}%): {} of {} experts were never routed to",
                gap.name,
                gap.percent(),
                gap.unseen,
                gap.total
            ));
        }
    }
}
