//! A row of a logits file: one distribution, rounded to 16 bits.

use std::io::{self, Write};

/// Log-probabilities this far below the largest are raised to it.
const LOWEST: f32 = -16.0;

/// The distribution after one token, its log-probabilities rounded to 16 bits as `llama-perplexity --save-all-logits` rounds
/// them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BaseRow {
    scale: f32,
    least: f32,
    values: Vec<u16>,
}

impl BaseRow {
    /// Rounds the log-probabilities of a row of logits.
    #[must_use]
    pub fn new(logits: &[f32]) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max + LOWEST);
        let log_sum = log_sum_exp(logits, max);
        let (scale, least) = ((max - min) / 65535.0, min - max - log_sum);
        let inverse = 1.0 / scale;
        let round = |&logit: &f32| if scale != 0.0 && logit > min { nearest(inverse * (logit - min)) } else { 0 };
        Self { scale, least, values: logits.iter().map(round).collect() }
    }

    /// Reads a row of a file; `bytes` has [`size`](Self::size) of them. The error has the scale and the minimum, one of which is invalid.
    pub(super) fn from_bytes(bytes: &[u8], n_vocab: usize) -> Result<Self, [f32; 2]> {
        let float = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (scale, least) = (float(0), float(4));
        if !scale.is_finite() || !least.is_finite() || scale < 0.0 {
            return Err([scale, least]);
        }
        let values = bytes[8..].chunks_exact(2).take(n_vocab).map(|b| u16::from_le_bytes([b[0], b[1]]));
        Ok(Self { scale, least, values: values.collect() })
    }

    /// Returns the number of bytes of a row in a file.
    pub(super) const fn size(n_vocab: usize) -> u64 {
        2 * (2 * (n_vocab as u64).div_ceil(2) + 4)
    }

    /// Writes the row in the file's format.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, w: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(2 * self.values.len() + 10);
        bytes.extend(self.scale.to_le_bytes());
        bytes.extend(self.least.to_le_bytes());
        self.values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes.resize(Self::size(self.values.len()) as usize, 0);
        w.write_all(&bytes)
    }

    /// Returns the number of tokens in the vocabulary.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.values.len()
    }

    /// Returns the log-probability of a token; `None` if the vocabulary does not have it.
    #[must_use]
    pub fn log_probability(&self, token: usize) -> Option<f32> {
        self.values.get(token).map(|&value| self.scaled(value))
    }

    /// Returns the log-probabilities of all tokens.
    pub fn log_probabilities(&self) -> impl Iterator<Item = f32> + '_ {
        self.values.iter().map(|&value| self.scaled(value))
    }

    fn scaled(&self, value: u16) -> f32 {
        self.scale * f32::from(value) + self.least
    }
}

/// The nearest number, ties to even, as upstream gets it from the mantissa.
fn nearest(x: f32) -> u16 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff).wrapping_sub(0x0040_0000) as u16
}

/// Returns `log(sum(exp(logit - max)))`, the sum in double precision.
pub(crate) fn log_sum_exp(logits: &[f32], max: f32) -> f32 {
    logits.iter().map(|logit| f64::from((logit - max).exp())).sum::<f64>().ln() as f32
}
