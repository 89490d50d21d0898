//! Random weights that many tensors take from.

use llama_imatrix::gguf::{DType, f32_to_f16};

use super::rng::Rng;

/// Elements a pool has beyond its largest tensor, so that this one too can begin anywhere. Whole blocks of any format.
const SLACK: u64 = 1 << 20;

/// Deviation of whole numbers that are spread evenly over -127..=127.
const INT8_DEVIATION: f32 = 73.3;

pub(crate) struct Pool {
    dtype: DType,
    bytes: Vec<u8>,
}

impl Pool {
    /// Numbers of mean 0 and deviation 1/sqrt(`row`), enough for a tensor of `most` elements.
    pub(crate) fn new(dtype: DType, row: u64, most: u64) -> Self {
        let mut rng = Rng::named(&["pool", dtype.name(), &row.to_string()]);
        let n = most.next_multiple_of(dtype.block_len()) + SLACK;
        let unit = (row as f32).sqrt().recip();
        let bytes = match dtype {
            DType::F32 => (0..n).flat_map(|_| (unit * rng.normal()).to_le_bytes()).collect(),
            DType::F16 => (0..n).flat_map(|_| f32_to_f16(unit * rng.normal()).to_le_bytes()).collect(),
            DType::Q8_0 => q8_0(n / DType::Q8_0.block_len(), unit, &mut rng),
            other => unreachable!("no model here has weights in {other}"),
        };
        Self { dtype, bytes }
    }

    /// The bytes of a tensor of `elements` elements: those from a random block on.
    pub(crate) fn window(&self, elements: u64, rng: &mut Rng) -> &[u8] {
        let block = self.dtype.block_bytes() as usize;
        let n = (elements / self.dtype.block_len()) as usize;
        let first = rng.below(self.bytes.len() / block - n);
        &self.bytes[first * block..(first + n) * block]
    }
}

/// Blocks of a scale in f16 and 32 signed bytes, which are drawn, not rounded from anything.
fn q8_0(blocks: u64, unit: f32, rng: &mut Rng) -> Vec<u8> {
    let scale = f32_to_f16(unit / INT8_DEVIATION).to_le_bytes();
    let mut out = Vec::with_capacity((blocks * DType::Q8_0.block_bytes()) as usize);
    for _ in 0..blocks {
        out.extend(scale);
        for _ in 0..4 {
            // -128 is not in the format's range.
            out.extend(rng.next_u64().to_le_bytes().map(|byte| if byte == 0x80 { 0 } else { byte }));
        }
    }
    out
}
