//! Reads a file of either format.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Error, dat, gguf as imatrix_gguf};
use crate::gguf::map::{self, Bytes};
use crate::gguf::{File, MAGIC};

/// What a file holds, as it says it.
///
/// Of a legacy file, `sum2` has averages times calls, and the one count has calls:
/// [`Imatrix::merge`](super::Imatrix::merge) turns both into sums and rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The entries, by weight name.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the calibration files.
    pub datasets: Vec<String>,
    /// Chunks the file says it was collected over; 0 where it does not say.
    pub chunk_count: i32,
    /// Tokens a chunk; 0 where the file does not say (a legacy file never does).
    pub chunk_size: i32,
    /// How many of the top layers are `NextN` layers; 0 where the file does not say.
    pub n_layer_nextn: i32,
    /// Whether the file is a legacy `.dat`.
    pub is_legacy: bool,
    /// Whether a GGUF file has all of datasets, chunk count and chunk size.
    pub has_metadata: bool,
}

impl super::Imatrix {
    /// Reads a GGUF or legacy file; which it is, its first bytes say.
    ///
    /// # Errors
    /// The operating system's, or the rule that the file breaks.
    pub fn load(path: impl AsRef<Path>) -> Result<Loaded, Error> {
        load_bytes(map::open(path.as_ref())?)
    }

    /// As [`load`](Self::load), for a file that lies in memory.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn load_from(bytes: &[u8]) -> Result<Loaded, Error> {
        load_bytes(Bytes::Held(bytes.into()))
    }
}

fn load_bytes(bytes: Bytes<'_>) -> Result<Loaded, Error> {
    // Upstream tries GGUF and, when that fails, the legacy format, so that a truncated GGUF file
    // is reported as a bad legacy one. A legacy file cannot begin with this magic: it would have
    // 1.2 billion entries.
    if bytes.starts_with(&MAGIC) { imatrix_gguf::read(&File::parse(bytes)?) } else { dat::read(&bytes) }
}
