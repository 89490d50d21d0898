//! The checksum at the end of a state file.
//!
//! The last tensor, `checksum`, holds four u64: the XXH3-128 hash of all bytes before it (two words, low half first),
//! the number of these bytes, and 0. It detects accidental damage at the speed of memory, but not deliberate changes.

use std::io;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use super::Error;

/// Size of the checksum record in bytes. A multiple of the alignment, so that no padding follows it.
pub(super) const BYTES: usize = 32;

fn seal(hash: u128, length: u64) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..16].copy_from_slice(&hash.to_le_bytes());
    out[16..24].copy_from_slice(&length.to_le_bytes());
    out
}

/// A writer that hashes its bytes and replaces the last [`BYTES`] of them by the checksum record.
pub(super) struct Sealing<W> {
    inner: W,
    hash: Xxh3Default,
    length: u64,
    /// The last bytes so far, which may be those to replace.
    held: Vec<u8>,
}

impl<W: io::Write> Sealing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hash: Xxh3Default::new(), length: 0, held: Vec::with_capacity(2 * BYTES) }
    }

    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        let seal = seal(self.hash.digest128(), self.length);
        self.inner.write_all(&seal)?;
        self.inner.flush()
    }
}

impl<W: io::Write> io::Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let spare = (self.held.len() + bytes.len()).saturating_sub(BYTES);
        let from_held = spare.min(self.held.len());
        let held: Vec<u8> = self.held.drain(..from_held).collect();
        self.pass(&held)?;
        let (now, later) = bytes.split_at(spare - from_held);
        self.pass(now)?;
        self.held.extend_from_slice(later);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Checks that the bytes are those that were written.
pub(super) fn verify(bytes: &[u8]) -> Result<(), Error> {
    let incomplete = || Error::Incomplete { length: bytes.len() as u64 };
    let (content, end) = bytes.split_last_chunk::<BYTES>().ok_or_else(incomplete)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| end[at + i]));
    if number(16) != content.len() as u64 || number(24) != 0 {
        return Err(incomplete());
    }
    let expected = u128::from(number(0)) | u128::from(number(8)) << 64;
    let found = xxh3_128(content);
    if found == expected { Ok(()) } else { Err(Error::Checksum { found, expected }) }
}

/// Updates the checksum of changed bytes, for tests and fuzzers.
#[doc(hidden)]
pub fn reseal(bytes: &mut [u8]) {
    if let Some((content, end)) = bytes.split_last_chunk_mut::<BYTES>() {
        *end = seal(xxh3_128(content), content.len() as u64);
    }
}
