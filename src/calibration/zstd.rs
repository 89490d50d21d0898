//! zstd files: consecutive frames, as `zstd` and `pzstd` write them and `cat` joins them.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Decodes all frames of a source.
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    /// True inside a frame.
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), inside: false }
    }

    /// Moves to the next frame with data. Returns false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_))) => {
                    return Err(io::Error::other("it is not a zstd file, or ends with bytes that are no zstd frame"));
                }
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.inside = false;
        let (said, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        if said.is_some() && said != found {
            return Err(io::Error::other("its checksum is wrong"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::other(error.to_string()))?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            self.end()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        Frames::new(bytes).read_to_end(&mut text).map(|_| text)
    }

    #[test]
    fn frames_follow_each_other_and_skippable_ones_are_skipped() {
        let text: Vec<u8> = (0..300_000_u32).map(|i| (i / 7 % 251) as u8).collect();
        let frame = compress_to_vec(&text[..], CompressionLevel::Fastest);
        assert_eq!(decode(&frame).unwrap(), text);
        let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let all = [&skippable[..], &frame, &compress_to_vec(&b""[..], CompressionLevel::Fastest), &skippable, &frame];
        assert_eq!(decode(&all.concat()).unwrap(), [&text[..], &text].concat());
        assert_eq!(decode(b"").unwrap(), b"");
    }

    #[test]
    fn damage_is_an_error() {
        let frame = compress_to_vec(&b"some text, some text, some text"[..], CompressionLevel::Fastest);
        for cut in 1..frame.len() {
            assert!(decode(&frame[..cut]).is_err(), "{cut}");
        }
        assert!(decode(b"no zstd at all").unwrap_err().to_string().starts_with("it is not a zstd file"));
        assert!(decode(&[&frame[..], b"x"].concat()).is_err());
        let mut flipped = frame.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(decode(&flipped).unwrap_err().to_string().contains("checksum"));
    }
}
