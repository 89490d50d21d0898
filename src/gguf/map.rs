//! The bytes of a file, mapped or in memory.

use std::borrow::Cow;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The contents of a file.
#[derive(Debug)]
pub(crate) enum Bytes<'a> {
    Mapped(Mmap),
    Held(Cow<'a, [u8]>),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Held(bytes) => bytes,
        }
    }
}

/// Maps a file read-only. A pipe or an empty file, which cannot be mapped, is read instead.
pub(crate) fn open(path: &Path) -> std::io::Result<Bytes<'static>> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(Bytes::Held(std::fs::read(path)?.into()));
    }
    // SAFETY: a mapping is a `&[u8]` only while nobody changes or shortens the file. Nothing in
    // this process does: `save_atomic` replaces files by rename, which leaves the mapped inode as
    // it is. Against other processes there is no lock that would help; llama.cpp maps models under
    // the same assumption. Should it break, numbers may change after they were checked, so every
    // access after validation is still a checked slice of this map, and a shortened file ends the
    // process with SIGBUS; no memory of ours is written through the map.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::Mapped(map))
}
