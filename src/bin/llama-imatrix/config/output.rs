//! The output: checked before the run, replaced as a whole, never lost.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::atomic_file::{Way, save_as, save_new};
use llama_imatrix::imatrix::{Error, Format, Imatrix, Shown, Values, describe_filled};
use llama_imatrix::state::Shard;

use super::replaceable::refuse_foreign_matrix;
use crate::args::Flags;
use crate::ui::log;

/// llama.cpp's default for `-o`.
pub(crate) const DEFAULT_OUTPUT: &str = "imatrix.gguf";

/// The output file and its format.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    format: Format,
    way: Way,
    /// Experts that saw fewer tokens are filled in what is written.
    fill_below: Option<i64>,
}

impl Output {
    /// Checks before the run that the file can be written.
    ///
    /// Without a format, the suffix `.dat` selects that format.
    pub(crate) fn new(path: PathBuf, format: Option<Format>) -> anyhow::Result<Self> {
        ensure!(!path.as_os_str().is_empty(), "--output is empty, expected a file name");
        ensure!(!path.is_dir(), "cannot write '{}': it is a folder", path.display());
        let way = check_way(&path)?;
        if way != Way::Stream {
            refuse_foreign_matrix(&path)?;
        }
        let suffix = path.extension().and_then(|extension| extension.to_str());
        let format = match (format, suffix) {
            (Some(format), _) => format,
            (None, Some("dat")) => Format::Dat,
            (None, Some("gguf")) => Format::Gguf,
            (None, _) => {
                log::warn(format_args!(
                    "'{}' is written in GGUF format, although its suffix is not .gguf; --output-format dat selects the older \
                     format",
                    path.display()
                ));
                Format::Gguf
            }
        };
        Ok(Self { path, format, way, fill_below: None })
    }

    /// Fills experts that saw fewer tokens in each matrix that is written; the matrix in memory stays.
    pub(crate) fn with_filled_experts(self, fill_below: Option<i64>) -> Self {
        Self { fill_below, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how the file is written, as found out before the run.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// Returns true if the output is or becomes a regular file: other files can lie beside it.
    pub(crate) fn is_file(&self) -> bool {
        self.way != Way::Stream
    }

    /// Replaces the file, or writes a copy named after `chunks`. A stream gets the matrix once, at the end.
    pub(crate) fn save(&self, imatrix: &Imatrix<impl Values>, copy: Option<i32>) -> anyhow::Result<()> {
        let mut name = self.path.clone().into_os_string();
        if let Some(chunks) = copy {
            name.push(format!(".at_{chunks}"));
        }
        self.save_to(Path::new(&name), imatrix, &Shown::new())
    }

    /// Replaces the file at the end of a run. If that fails, saves the matrix to the temporary folder. Experts in `shown` are
    /// filled from the rows that were shown to them.
    pub(crate) fn save_final(&self, imatrix: &Imatrix<impl Values>, shown: &Shown) -> anyhow::Result<()> {
        let saved = self.save_to(&self.path, imatrix, shown);
        or_rescue(saved, "matrix", &self.path, |w| self.write(imatrix, shown, w))
    }

    fn save_to(&self, path: &Path, imatrix: &Imatrix<impl Values>, shown: &Shown) -> anyhow::Result<()> {
        save_as(path, self.way, |w| self.write(imatrix, shown, w))
            .with_context(|| format!("cannot save '{}'", path.display()))
    }

    /// Returns the number of tokens below which experts are filled; `None` if none are.
    pub(crate) fn fill_below(&self) -> Option<i64> {
        self.fill_below
    }

    /// Writes the matrix, or a copy with filled experts.
    fn write(&self, imatrix: &Imatrix<impl Values>, shown: &Shown, w: impl Write) -> Result<(), Error> {
        let Some(below) = self.fill_below else { return imatrix.write(w, self.format) };
        let mut filled = imatrix.view().to_owned();
        filled.fill_experts_with(below, shown);
        if let Some(text) = describe_filled(&filled.filled) {
            log::debug(format_args!("{text}"));
        }
        filled.write(w, self.format)
    }
}

/// Returns the path of the matrix, or of a shard's state, which is its result. A matrix's name gives one state per shard.
pub(crate) fn output_path(flags: &Flags, shard: Shard) -> PathBuf {
    let given = flags.output.clone().unwrap_or_else(|| DEFAULT_OUTPUT.into());
    let is_matrix = given.extension().is_some_and(|extension| extension == "gguf" || extension == "dat");
    if shard.is_whole() || !is_matrix {
        return given;
    }
    given.with_extension(format!("{}-of-{}.state", shard.index(), shard.count()))
}

/// Returns the path of the state: beside the matrix, or the output itself for a shard.
pub(crate) fn state_path(output: &Path, shard: Shard) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    if shard.is_whole() {
        path.push(".state");
    }
    path.into()
}

/// Returns how a file will be written, and warns of one that cannot be replaced as a whole.
pub(crate) fn check_way(path: &Path) -> anyhow::Result<Way> {
    let way = Way::of(path).with_context(|| format!("cannot write '{}'", path.display()))?;
    if let Way::InPlace(obstacle) = way {
        log::warn(format_args!(
            "'{}' is written in place, since {obstacle}: an interrupted save leaves it damaged",
            path.display()
        ));
    }
    Ok(way)
}

/// Writes a result that could not be saved to a new file in the temporary folder. Returns the error, which then names that
/// file.
pub(crate) fn or_rescue<E: From<std::io::Error> + Display>(
    saved: anyhow::Result<()>,
    what: &str,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> anyhow::Result<()> {
    let Err(error) = saved else { return Ok(()) };
    let folder = std::env::temp_dir();
    let name = path.file_name().unwrap_or(OsStr::new("imatrix"));
    match save_new(&folder, name, write) {
        Ok(rescued) => bail!("{error:#}; the {what} is in '{}' instead", rescued.display()),
        Err(second) => bail!("{error:#}; it cannot be saved in '{}' either: {second}", folder.display()),
    }
}

/// Warns of what the legacy format cannot hold.
pub(crate) fn warn_of_dat(output: &Output, imatrix: &Imatrix<impl Values>) {
    if let (Format::Dat, [_, .., last]) = (output.format, &imatrix.datasets[..]) {
        log::warn(format_args!("a .dat file stores one data set, the last: '{last}'"));
    }
}
