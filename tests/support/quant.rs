//! ggml's number formats for the weights that are not f32.

use llama_imatrix::gguf::{DType, f32_to_f16};

use super::rng::Rng;

/// Values a `Q8_0` block holds: a scale in f16, then this many signed bytes.
const Q8_0_BLOCK: usize = 32;

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| f32_to_f16(x).to_le_bytes()).collect()
}

/// Rows must be whole blocks of 32.
pub fn q8_0_bytes(values: &[f32]) -> Vec<u8> {
    assert_eq!(values.len() % Q8_0_BLOCK, 0, "Q8_0 needs whole blocks");
    let mut out = Vec::with_capacity(values.len() / Q8_0_BLOCK * (2 + Q8_0_BLOCK));
    for block in values.chunks_exact(Q8_0_BLOCK) {
        let scale = block.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
        out.extend(f32_to_f16(scale).to_le_bytes());
        out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
    }
    out
}

/// Values a K-quant's block holds.
pub const K_BLOCK: u64 = 256;

/// A K-quant's block: all bytes but those of its f16 scales may have any value.
pub struct KQuant {
    pub dtype: DType,
    /// Where each scale is, and how large it is where the values have a deviation of 1.
    scales: &'static [(usize, f32)],
}

/// The scale of the minima makes the mean about 0.
pub const Q4_K: KQuant = KQuant { dtype: DType::Q4_K, scales: &[(0, 1.0 / 200.0), (2, 7.5 / 200.0)] };
pub const Q5_K: KQuant = KQuant { dtype: DType::Q5_K, scales: &[(0, 1.0 / 400.0), (2, 15.5 / 400.0)] };
pub const Q6_K: KQuant = KQuant { dtype: DType::Q6_K, scales: &[(208, 1.0 / 1330.0)] };

/// Random blocks whose values have about this deviation.
pub fn k_blocks(rng: &mut Rng, blocks: usize, quant: &KQuant, deviation: f32) -> Vec<u8> {
    let size = quant.dtype.block_bytes() as usize;
    let mut bytes = vec![0; blocks * size];
    for block in bytes.chunks_exact_mut(size) {
        block.chunks_mut(8).for_each(|eight| eight.copy_from_slice(&rng.next_u64().to_le_bytes()[..eight.len()]));
        for &(at, scale) in quant.scales {
            block[at..at + 2].copy_from_slice(&f32_to_f16(scale * deviation).to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_keeps_the_largest_of_a_block() {
        let mut values = [0f32; 32];
        values[3] = -12.7;
        values[4] = 6.35;
        let block = q8_0_bytes(&values);
        assert_eq!(block.len(), 34);
        assert_eq!(block[2 + 3] as i8, -127);
        assert_eq!(block[2 + 4] as i8, 64);
        assert_eq!(block[2], 0);
    }
}
