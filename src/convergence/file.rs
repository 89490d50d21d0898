//! The convergence file `imatrix.convergence.json`, which a run with `--convergence` writes next to `imatrix.gguf`.
//!
//! `docs/convergence.md` describes its fields.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Convergence, Point, WeightAgreement, energy};
use crate::atomic_file;
use crate::imatrix::{Entry, Filled, Values};

/// Value of the field `format`.
pub const FORMAT: &str = "llama-imatrix convergence";
/// Version of the format that is read and written.
pub const VERSION: u32 = 1;
/// Maximum size of a file in bytes: files have some hundred bytes per expert of a weight.
const MAX_BYTES: u64 = 256 << 20;
/// Relative difference of two sums that are the same, as a file and JSON store them.
const TOLERANCE: f64 = 1e-9;

/// A convergence file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvergenceFile {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The points in order of chunks, at least one; the last is that of the whole matrix.
    pub curve: Vec<Point>,
    /// All weights of the matrix, sorted by name.
    pub weights: Vec<WeightAgreement>,
}

/// An error of reading or writing a convergence file. The caller adds the file's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A rule of the format that the file breaks.
    #[error("not a convergence file: {0}")]
    Rule(String),
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        if e.is_io() { Self::Io(e.into()) } else { Self::Rule(e.to_string()) }
    }
}

impl ConvergenceFile {
    /// Creates the file of a matrix of `chunks` chunks; `curve` has the earlier points. `None` if no weight has data in
    /// both halves.
    #[must_use]
    pub fn new(convergence: Convergence, chunks: i32, curve: &[Point]) -> Option<Self> {
        let last = convergence.point(chunks)?;
        let mut curve: Vec<Point> = curve.iter().filter(|point| point.chunks < chunks).cloned().collect();
        curve.push(last);
        Some(Self { format: FORMAT.to_owned(), version: VERSION, curve, weights: convergence.weights })
    }

    /// Returns the path of a matrix's convergence file: `imatrix.convergence.json` for `imatrix.gguf`.
    #[must_use]
    pub fn beside(matrix: &Path) -> PathBuf {
        matrix.with_extension("convergence.json")
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`], or the rule that the file breaks.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let found = std::fs::metadata(path)?.len();
        if found > MAX_BYTES {
            return Err(Error::Rule(format!("{found} bytes, expected at most {MAX_BYTES}")));
        }
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads and checks a file in memory.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // Format and version are checked first: another version may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format != FORMAT {
            return Err(Error::Rule(format!("'format' is \"{}\", expected \"{FORMAT}\"", head.format)));
        }
        if head.version != VERSION {
            return Err(Error::Rule(format!("found version {}, expected {VERSION}", head.version)));
        }
        let file: Self = serde_json::from_slice(bytes)?;
        if file.curve.is_empty() {
            return Err(Error::Rule("'curve' has no point, expected at least one".to_owned()));
        }
        Ok(file)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, mut out: impl Write) -> Result<(), Error> {
        serde_json::to_writer_pretty(&mut out, self)?;
        out.write_all(b"\n").map_err(Error::from)
    }

    /// Replaces the file at `path` atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        atomic_file::save(path, |out| self.write(out))
    }

    /// Returns the last point of the curve: that of the whole matrix.
    #[must_use]
    pub fn last(&self) -> Option<&Point> {
        self.curve.last()
    }

    /// Returns true if a matrix with these entries has the data that was compared. A later run may have replaced the matrix
    /// and left this file. Weights with filled experts are not considered.
    #[must_use]
    pub fn is_of<V: Values>(&self, entries: &BTreeMap<String, Entry<V>>, filled: &Filled) -> bool {
        let same = |weight: &WeightAgreement| {
            let Some(entry) = entries.get(&weight.weight) else { return false };
            let found = energy(&entry.sum2.numbers());
            filled.contains_key(&weight.weight) || (found - weight.in_sum2).abs() <= TOLERANCE * weight.in_sum2.abs()
        };
        self.weights.len() == entries.len() && self.weights.iter().all(same)
    }
}
