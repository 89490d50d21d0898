//! The bytes of a file, mapped or in memory.

use std::borrow::Cow;
use std::fs::Metadata;
use std::io::Read as _;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::Mmap;

/// The contents of a file.
#[derive(Debug)]
pub(crate) enum Bytes<'a> {
    Mapped(Mapped),
    Held(Cow<'a, [u8]>),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(mapped) => &mapped.map,
            Bytes::Held(bytes) => bytes,
        }
    }
}

impl Bytes<'_> {
    /// Tells the system that some bytes are not needed for now. Their pages no longer count as this process's memory; they are
    /// still in the page cache, or are read from the file again.
    #[cfg(feature = "llama")]
    pub(crate) fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(mapped) = self {
            // SAFETY: the mapping is shared and never written to, so no change can be lost. A failure costs memory alone.
            #[allow(unsafe_code)]
            let _ = unsafe {
                mapped.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// A mapped file, listed as such for as long as it is mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
    file: Option<Id>,
}

/// Device and inode.
type Id = (u64, u64);

/// The files that are mapped now, one item per mapping.
static MAPPED: Mutex<Vec<Id>> = Mutex::new(Vec::new());

fn mapped() -> MutexGuard<'static, Vec<Id>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns true if this process has the file mapped: it must not be written in place.
pub(crate) fn is_mapped(metadata: &Metadata) -> bool {
    id(metadata).is_some_and(|id| mapped().contains(&id))
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems do not say")]
fn id(metadata: &Metadata) -> Option<Id> {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

/// Elsewhere the system refuses to shorten a file that is mapped.
#[cfg(not(unix))]
fn id(_: &Metadata) -> Option<Id> {
    None
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let mut mapped = mapped();
        if let Some(at) = mapped.iter().position(|&id| Some(id) == self.file) {
            mapped.swap_remove(at);
        }
    }
}

/// Maps a file read-only. A pipe or an empty file, which cannot be mapped, is read instead.
pub(crate) fn open(path: &Path) -> std::io::Result<Bytes<'static>> {
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        // A pipe is opened once: who writes into it has gone by the second time.
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        return Ok(Bytes::Held(bytes.into()));
    }
    // SAFETY: a mapping is a `&[u8]` only while nobody changes or shortens the file. Nothing in
    // this process does: `atomic_file` replaces files by rename, which leaves the mapped inode as
    // it is, and writes no file in place that `is_mapped`. Against other processes there is no lock
    // that would help; llama.cpp maps models under the same assumption. Should it break, numbers may
    // change after they were checked, so every access after validation is still a checked slice of
    // this map, and a shortened file ends the process with SIGBUS; no memory of ours is written
    // through the map.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file)? };
    let file = id(&metadata);
    mapped().extend(file);
    Ok(Bytes::Mapped(Mapped { map, file }))
}
