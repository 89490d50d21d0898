//! Opens files and decompresses them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::error::Error;

/// Compression of a file, by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Returns the compression, and the name without its suffix.
    pub(super) fn of(name: &str) -> (Self, &str) {
        let without = |suffix: &str| {
            let at = name.len().checked_sub(suffix.len())?;
            name.get(at..)?.eq_ignore_ascii_case(suffix).then(|| &name[..at])
        };
        match (without(".gz"), without(".zst")) {
            (Some(name), _) => (Self::Gzip, name),
            (_, Some(name)) => (Self::Zstd, name),
            _ => (Self::None, name),
        }
    }
}

/// Limits against decompression bombs: the largest ratio and the largest size. Text has a ratio of about 5. Small files
/// may exceed the ratio.
const MOST_TIMES: u64 = 256;
const MOST: u64 = 16 << 30;
const LITTLE: u64 = 64 << 20;

/// The decompressed contents of a file.
pub(super) fn open(path: &Path, compression: Compression) -> Result<Box<dyn BufRead>, Error> {
    let file = File::open(path).map_err(|source| Error::read(path, source))?;
    let size = file.metadata().map_err(|source| Error::read(path, source))?.len();
    let file = BufReader::with_capacity(1 << 16, file);
    let Some(decoder) = decoder(file, compression) else {
        return Err(Error::compressed(path, "this was built without the feature 'compression'"));
    };
    if compression == Compression::None {
        return Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)));
    }
    let limit = size.saturating_mul(MOST_TIMES).clamp(LITTLE, MOST);
    Ok(Box::new(BufReader::with_capacity(1 << 16, Bounded { decoder, left: limit, limit })))
}

/// Opens the decompressor, if this build has it.
#[cfg_attr(feature = "compression", allow(clippy::unnecessary_wraps, reason = "not all builds can"))]
fn decoder(file: BufReader<File>, compression: Compression) -> Option<Box<dyn Read>> {
    match compression {
        Compression::None => Some(Box::new(file.into_inner())),
        #[cfg(feature = "compression")]
        Compression::Gzip => Some(Box::new(flate2::bufread::MultiGzDecoder::new(file))),
        #[cfg(feature = "compression")]
        Compression::Zstd => Some(Box::new(super::zstd::Frames::new(file))),
        #[cfg(not(feature = "compression"))]
        Compression::Gzip | Compression::Zstd => None,
    }
}

/// Converts an error of reading `path` to one that names the file.
pub(super) fn explain(path: &Path, compression: Compression, error: io::Error) -> Error {
    if let Some(TooMuch { limit }) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Error::Rule(format!(
            "'{}' decompresses to more than {} MiB, the most that is taken of a file of its size: decompress it yourself if \
             that is meant",
            path.display(),
            limit >> 20
        ));
    }
    match compression {
        Compression::None => Error::read(path, error),
        _ => Error::compressed(path, &error.to_string()),
    }
}

/// A decoder with a limit on its output.
struct Bounded<R> {
    decoder: R,
    left: u64,
    limit: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {limit} bytes")]
struct TooMuch {
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.decoder.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(TooMuch { limit: self.limit }))?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_selects_the_decompressor() {
        for (name, compression, inner) in [
            ("a.txt", Compression::None, "a.txt"),
            ("a.jsonl.gz", Compression::Gzip, "a.jsonl"),
            ("A.TXT.GZ", Compression::Gzip, "A.TXT"),
            ("é.zst", Compression::Zstd, "é"),
            (".gz", Compression::Gzip, ""),
            ("zst", Compression::None, "zst"),
            ("éé", Compression::None, "éé"),
        ] {
            assert_eq!(Compression::of(name), (compression, inner), "{name}");
        }
    }

    #[test]
    fn text_over_the_limit_is_an_error() {
        let mut text = Vec::new();
        let mut reader = Bounded { decoder: &b"12345"[..], left: 5, limit: 5 };
        assert_eq!(reader.read_to_end(&mut text).unwrap(), 5);
        let mut reader = Bounded { decoder: &b"12345"[..], left: 4, limit: 4 };
        let error = reader.read_to_end(&mut text).unwrap_err();
        let explained = explain(Path::new("x.gz"), Compression::Gzip, error);
        assert!(explained.to_string().starts_with("'x.gz' decompresses to more than 0 MiB"), "{explained}");
    }
}
