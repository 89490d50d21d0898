//! Checks that bytes are text: UTF-8 without NUL.

use std::fmt;

/// Number of bytes at the beginning of a file that are checked before it is read.
pub(super) const PROBE: usize = 1 << 16;

/// Reason why a file is not text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotText {
    /// It begins with the magic of a GGUF file.
    Gguf,
    /// It begins with the byte order mark of UTF-16.
    Utf16,
    /// It has a NUL byte.
    Nul {
        /// Offset of the first NUL byte, from 0.
        offset: u64,
    },
}

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gguf => f.write_str("it is a GGUF file"),
            Self::Utf16 => f.write_str("it begins with the byte order mark of UTF-16; hint: iconv -f UTF-16 -t UTF-8"),
            Self::Nul { offset } => write!(f, "it has a NUL byte at offset {offset}"),
        }
    }
}

/// Bytes in a text that are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid {
    /// Offset of the first invalid byte, from 0.
    pub offset: u64,
    /// Number of sequences that are not UTF-8.
    pub sequences: u64,
}

/// Returns the reason why a file with these first bytes is not text, if there is one.
pub(super) fn not_text(bytes: &[u8]) -> Option<NotText> {
    if bytes.starts_with(&crate::gguf::MAGIC) {
        return Some(NotText::Gguf);
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Some(NotText::Utf16);
    }
    bytes.iter().position(|&byte| byte == 0).map(|offset| NotText::Nul { offset: offset as u64 })
}

/// Returns the parts of a text that are not UTF-8, if any.
pub(super) fn invalid(bytes: &[u8]) -> Option<Invalid> {
    let error = str::from_utf8(bytes).err()?;
    let sequences = bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
    Some(Invalid { offset: error.valid_up_to() as u64, sequences: sequences as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_files_are_recognized_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"GGUF\x03\0\0\0"[..], Some(NotText::Gguf)),
            (b"\xff\xfea\0b\0", Some(NotText::Utf16)),
            (b"\xfe\xff\0a\0b", Some(NotText::Utf16)),
            (b"ab\0c", Some(NotText::Nul { offset: 2 })),
            (b"GGU", None),
            (b"\xef\xbb\xbfBOM of UTF-8", None),
            (b"", None),
        ] {
            assert_eq!(not_text(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn invalid_sequences_are_counted_from_the_first() {
        assert_eq!(invalid("Жé".as_bytes()), None);
        assert_eq!(invalid(b"caf\xe9 na\xefve"), Some(Invalid { offset: 3, sequences: 2 }));
        assert_eq!(invalid(b"cut \xd0"), Some(Invalid { offset: 4, sequences: 1 }));
    }
}
