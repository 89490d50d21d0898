//! Reads a file of either format.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Error, Filled, Slice, Values, dat, gguf as imatrix_gguf};
use crate::gguf;
use crate::gguf::map::{self, Bytes};

/// What a file holds, as it says it.
///
/// Of a legacy file, `sum2` has averages times calls, and the one count has calls:
/// [`Imatrix::merge`](super::Imatrix::merge) turns both into sums and rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded<V = Vec<f32>> {
    /// The entries, by weight name.
    pub entries: BTreeMap<String, Entry<V>>,
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
    /// Experts whose sums were filled.
    pub filled: Filled,
}

/// A matrix file that stays where it is: mapped, its numbers read when they are needed.
///
/// ```no_run
/// use llama_imatrix::imatrix::{ChunkSizes, File, Format, Imatrix};
/// let sizes = ChunkSizes { run: 512, legacy: 512 };
/// let files = [File::open("a.gguf")?, File::open("b.gguf")?];
/// let loaded = [files[0].load()?, files[1].load()?];
/// let mut sum = Imatrix::new();
/// for file in &loaded {
///     sum.merge(file, sizes)?; // adds nothing up yet
/// }
/// sum.settle_chunk_size(512);
/// sum.save("sum.gguf".as_ref(), Format::Gguf)?;
/// # Ok::<(), llama_imatrix::imatrix::Error>(())
/// ```
#[derive(Debug)]
pub struct File<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    Gguf(gguf::File<'a>),
    Dat(Bytes<'a>),
}

impl File<'static> {
    /// Maps a GGUF or legacy file; which it is, its first bytes say.
    ///
    /// # Errors
    /// The operating system's, or the rule of GGUF that the file breaks.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::parse(map::open(path.as_ref())?)
    }
}

impl<'a> File<'a> {
    /// A file that lies in memory.
    ///
    /// # Errors
    /// The rule of GGUF that the bytes break.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::parse(Bytes::Held(bytes.into()))
    }

    fn parse(bytes: Bytes<'a>) -> Result<Self, Error> {
        // Upstream tries GGUF and, when that fails, the legacy format, so that a truncated GGUF file
        // is reported as a bad legacy one. A legacy file cannot begin with this magic: it would have
        // 1.2 billion entries.
        let is_gguf = bytes.starts_with(&gguf::MAGIC);
        Ok(Self(if is_gguf { Kind::Gguf(gguf::File::parse(bytes)?) } else { Kind::Dat(bytes) }))
    }

    /// All bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Gguf(file) => file.bytes(),
            Kind::Dat(bytes) => bytes,
        }
    }

    /// What the file holds, its sums where they are.
    ///
    /// # Errors
    /// The rule that the file breaks.
    pub fn load(&self) -> Result<Loaded<Slice<'_>>, Error> {
        match &self.0 {
            Kind::Gguf(file) => imatrix_gguf::read(file),
            Kind::Dat(bytes) => dat::read(bytes),
        }
    }
}

impl super::Imatrix {
    /// Reads a GGUF or legacy file; which it is, its first bytes say.
    ///
    /// # Errors
    /// The operating system's, or the rule that the file breaks.
    pub fn load(path: impl AsRef<Path>) -> Result<Loaded, Error> {
        Ok(File::open(path)?.load()?.to_owned())
    }

    /// As [`load`](Self::load), for a file that lies in memory.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn load_from(bytes: &[u8]) -> Result<Loaded, Error> {
        Ok(File::from_bytes(bytes)?.load()?.to_owned())
    }
}

impl Loaded<Slice<'_>> {
    /// The same, its sums copied.
    #[must_use]
    pub(crate) fn to_owned(&self) -> Loaded {
        let copy = |slice: &Slice<'_>| slice.numbers().to_vec();
        let entries = self.entries.iter().map(|(name, entry)| {
            let sum = entry.sum.as_ref().map(copy);
            (name.clone(), Entry { sum2: copy(&entry.sum2), sum, counts: entry.counts.clone() })
        });
        Loaded {
            entries: entries.collect(),
            datasets: self.datasets.clone(),
            chunk_count: self.chunk_count,
            chunk_size: self.chunk_size,
            n_layer_nextn: self.n_layer_nextn,
            is_legacy: self.is_legacy,
            has_metadata: self.has_metadata,
            filled: self.filled.clone(),
        }
    }
}
