//! Reads numbers and strings from a byte slice, never past its end.

use super::{Error, MAX_STRING_BYTES};

/// A position in a file's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the offset of the next byte.
    pub(crate) const fn at(&self) -> u64 {
        self.at as u64
    }

    /// Returns the number of bytes up to the end.
    pub(crate) const fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// Takes the next `n` bytes; `what` names them in the error.
    pub(crate) fn take(&mut self, what: &'static str, n: u64) -> Result<&'a [u8], Error> {
        let taken = usize::try_from(n).ok().and_then(|n| self.bytes.get(self.at..self.at.checked_add(n)?));
        let taken = taken.ok_or(Error::Truncated { what, at: self.at(), need: n, left: self.left() })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N as u64)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32, Error> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads a GGUF string: its length as a u64, then its bytes.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let at = self.at();
        let length = self.u64(what)?;
        if length > MAX_STRING_BYTES {
            return Err(Error::StringLength { what, at, found: length });
        }
        self.take(what, length)
    }

    /// Reads a key or tensor name: UTF-8 without zero bytes (ggml would cut the name there).
    pub(crate) fn name(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let at = self.at();
        let bytes = self.string(what)?;
        let text = std::str::from_utf8(bytes).ok().filter(|s| !s.contains('\0'));
        text.ok_or_else(|| {
            let shown = &bytes[..bytes.len().min(64)];
            Error::NameText { what, at, text: String::from_utf8_lossy(shown).into_owned() }
        })
    }
}
