//! Panels of `Q4_K`, `Q5_K` and `Q6_K` weights.

use std::arch::x86_64::*;

use super::k_quants::{BLOCK, GROUP, PAIRS};

/// Rows that are laid out at once; a panel has as many, or twice as many.
const EIGHT: usize = 8;

/// A block of eight or sixteen rows, each with `SUBS` sub-blocks.
#[repr(C, align(64))]
pub(super) struct Panel<const SUBS: usize, const ROWS: usize> {
    /// Four values of each row per vector.
    pub(super) values: [[[u8; GROUP]; ROWS]; BLOCK / GROUP],
    /// The scale of each row's sub-block: of eight rows twice, for a kernel that multiplies pairs; of sixteen as a number of 32
    /// bits.
    pub(super) scales: [[[i16; 2]; ROWS]; SUBS],
    /// What the activations' sums are multiplied with, per row and pair of sums: the minima of the sub-blocks of `Q4_K` and
    /// `Q5_K`, the scales of those of `Q6_K`.
    pub(super) factors: [[[i16; 2]; ROWS]; PAIRS],
    pub(super) scale: [f32; ROWS],
    pub(super) scale_of_minima: [f32; ROWS],
}

impl<const SUBS: usize, const ROWS: usize> Panel<SUBS, ROWS> {
    /// Sets the scales of sub-block `sub` of the eight rows from `first` on.
    #[inline]
    fn set_scales(&mut self, sub: usize, first: usize, scales: [i16; EIGHT]) {
        for (to, scale) in self.scales[sub][first..][..EIGHT].iter_mut().zip(scales) {
            *to = [scale, if ROWS == EIGHT { scale } else { scale >> 15 }];
        }
    }
}

/// `block_q4_K`, and with 32 bytes of fifth bits `block_q5_K`. In each 32 bytes of values the lower halves are a sub-block, the
/// upper halves the next; each byte of fifth bits has those of eight sub-blocks.
#[repr(C)]
struct Q4KOrQ5K<const FIFTH_BITS: usize> {
    scale: [u8; 2],
    scale_of_minima: [u8; 2],
    scales: [u8; 12],
    fifth_bits: [u8; FIFTH_BITS],
    values: [u8; 128],
}

/// `block_q6_K`: the lower 4 bits and the upper 2 bits of the values, for each half of the block.
#[repr(C)]
struct Q6K {
    low: [u8; 128],
    high: [u8; 64],
    /// Signed.
    scales: [u8; 16],
    scale: [u8; 2],
}

/// `block_q4_Kx8`: blocks of eight rows. Values come in pieces of eight bytes of each row.
#[repr(C)]
struct Q4Kx8 {
    scale: [[u8; 2]; EIGHT],
    scale_of_minima: [[u8; 2]; EIGHT],
    /// Per sub-block, packed as those of the sub-blocks of one row are in a file.
    scales: [[u8; 12]; 8],
    values: [[[u8; 8]; EIGHT]; 16],
}

/// The bytes of eight rows' blocks, one value each.
#[repr(align(32))]
struct Unpacked([[u8; BLOCK]; EIGHT]);

/// Packs `Q4_K` without, `Q5_K` with 32 bytes of fifth bits.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn pack_q4_k_or_q5_k<const FIFTH_BITS: usize, const ROWS: usize>(
    rows: &[*const u8],
    k: usize,
    panel: *mut u8,
) {
    let mut unpacked = Unpacked([[0; BLOCK]; EIGHT]);
    let (mut scales, mut minima) = ([[0; 8]; EIGHT], [[0; 8]; EIGHT]);
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel and each of the rows have this block.
        let panel = unsafe { &mut *panel.cast::<Panel<8, ROWS>>().add(b) };
        for first in (0..ROWS).step_by(EIGHT) {
            for r in 0..EIGHT {
                // SAFETY: as above.
                let block = unsafe { &*rows[first + r].cast::<Q4KOrQ5K<FIFTH_BITS>>().add(b) };
                unpack_four_bits(&block.values, &mut unpacked.0[r]);
                if let Ok(bits) = block.fifth_bits.as_slice().try_into() {
                    add_fifth_bits(bits, &mut unpacked.0[r]);
                }
                (scales[r], minima[r]) = scales_and_minima(&block.scales);
                panel.scale[first + r] = float(block.scale);
                panel.scale_of_minima[first + r] = float(block.scale_of_minima);
            }
            interleave(&unpacked, first, &mut panel.values);
            for (sub, scales) in transpose(&scales).into_iter().enumerate() {
                panel.set_scales(sub, first, scales.map(i16::from));
            }
            for (factors, minima) in panel.factors.iter_mut().zip(transpose(&minima)) {
                factors[first..][..EIGHT].copy_from_slice(&twice(minima));
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn pack_q6_k<const ROWS: usize>(rows: &[*const u8], k: usize, panel: *mut u8) {
    let mut unpacked = Unpacked([[0; BLOCK]; EIGHT]);
    let mut scales = [[[0; 8]; EIGHT]; 2];
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel and each of the rows have this block.
        let panel = unsafe { &mut *panel.cast::<Panel<16, ROWS>>().add(b) };
        for first in (0..ROWS).step_by(EIGHT) {
            for r in 0..EIGHT {
                // SAFETY: as above.
                let block = unsafe { &*rows[first + r].cast::<Q6K>().add(b) };
                unpack_six_bits(block, &mut unpacked.0[r]);
                scales[0][r].copy_from_slice(&block.scales[..8]);
                scales[1][r].copy_from_slice(&block.scales[8..]);
                panel.scale[first + r] = float(block.scale);
            }
            interleave(&unpacked, first, &mut panel.values);
            for (half, scales) in scales.iter().enumerate() {
                for (sub, scales) in transpose(scales).into_iter().enumerate() {
                    let scales = scales.map(|scale| i16::from(scale as i8));
                    panel.set_scales(8 * half + sub, first, scales);
                    for r in 0..EIGHT {
                        panel.factors[4 * half + sub / 2][first + r][sub % 2] = scales[r];
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn pack_q4_k_repacked<const ROWS: usize>(rows: &[*const u8], k: usize, panel: *mut u8) {
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel has this block.
        let panel = unsafe { &mut *panel.cast::<Panel<8, ROWS>>().add(b) };
        for first in (0..ROWS).step_by(EIGHT) {
            // If the matrix has no further rows, its last row is repeated; nobody wants these results.
            let start = if rows[first] == rows[first + 1] { rows[0] } else { rows[first] };
            // SAFETY: by contract; eight rows are repacked together, beginning where the first one would begin.
            let block = unsafe { &*start.cast::<Q4Kx8>().add(b) };
            interleave_repacked(block, first, &mut panel.values);
            for (sub, packed) in block.scales.iter().enumerate() {
                let (scales, minima) = scales_and_minima(packed);
                panel.set_scales(sub, first, scales.map(i16::from));
                panel.factors[sub][first..][..EIGHT].copy_from_slice(&twice(minima));
            }
            for r in 0..EIGHT {
                panel.scale[first + r] = float(block.scale[r]);
                panel.scale_of_minima[first + r] = float(block.scale_of_minima[r]);
            }
        }
    }
}

/// Lays out the values of eight repacked rows four by four, as [`interleave`] does.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave_repacked<const ROWS: usize>(block: &Q4Kx8, first: usize, to: &mut [[[u8; GROUP]; ROWS]; BLOCK / GROUP]) {
    let step = ROWS / EIGHT;
    // SAFETY: a vector has four values of each row; `first` is below `ROWS`.
    let mut vectors = unsafe { to.as_mut_ptr().cast::<__m256i>().add(first / EIGHT) };
    for two_subs in block.values.chunks_exact(4) {
        for upper in [false, true] {
            for piece in two_subs {
                // SAFETY: a piece has two vectors; there are 32 of them, and `to` has two vectors for each.
                unsafe {
                    let load = |first: usize| {
                        let values = _mm256_loadu_si256(piece.as_ptr().add(first).cast());
                        let values = if upper { _mm256_srli_epi16(values, 4) } else { values };
                        _mm256_castsi256_ps(_mm256_and_si256(values, _mm256_set1_epi8(15)))
                    };
                    let (first, last) = (load(0), load(4));
                    // Rows 0, 1, 4, 5, 2, 3, 6, 7; then in order.
                    let in_order =
                        |values: __m256| _mm256_permute4x64_epi64(_mm256_castps_si256(values), 0b11_01_10_00);
                    _mm256_store_si256(vectors, in_order(_mm256_shuffle_ps(first, last, 0b10_00_10_00)));
                    _mm256_store_si256(vectors.add(step), in_order(_mm256_shuffle_ps(first, last, 0b11_01_11_01)));
                    vectors = vectors.wrapping_add(2 * step);
                }
            }
        }
    }
}

/// An f16 as f32.
#[inline]
#[target_feature(enable = "f16c")]
fn float(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(bytes).into())))
}

/// Unpacks sub-blocks of 32 values, two per 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack_four_bits(packed: &[u8; 128], to: &mut [u8; BLOCK]) {
    let four_bits = _mm256_set1_epi8(15);
    for i in 0..4 {
        // SAFETY: there are four times 32 bytes, and room for eight sub-blocks.
        unsafe {
            let both = _mm256_loadu_si256(packed.as_ptr().add(32 * i).cast());
            let to = to.as_mut_ptr().add(64 * i).cast::<__m256i>();
            _mm256_storeu_si256(to, _mm256_and_si256(both, four_bits));
            _mm256_storeu_si256(to.add(1), _mm256_and_si256(_mm256_srli_epi16(both, 4), four_bits));
        }
    }
}

/// Adds the fifth bits, bit `i` of each byte to sub-block `i`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_fifth_bits(bits: &[u8; 32], to: &mut [u8; BLOCK]) {
    // SAFETY: there are 32 bytes, and eight sub-blocks.
    unsafe {
        let bits = _mm256_loadu_si256(bits.as_ptr().cast());
        for i in 0..8 {
            let bit = _mm256_set1_epi8((1_u8 << i) as i8);
            let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit);
            let to = to.as_mut_ptr().add(32 * i).cast::<__m256i>();
            let values = _mm256_or_si256(_mm256_loadu_si256(to), _mm256_and_si256(is_set, _mm256_set1_epi8(16)));
            _mm256_storeu_si256(to, values);
        }
    }
}

/// Unpacks values of 6 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack_six_bits(block: &Q6K, to: &mut [u8; BLOCK]) {
    for (half, values) in to.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&block.low[64 * half..][..64], &block.high[32 * half..][..32]);
        for i in 0..32 {
            values[i] = low[i] & 15 | (high[i] & 3) << 4;
            values[32 + i] = low[32 + i] & 15 | (high[i] >> 2 & 3) << 4;
            values[64 + i] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
            values[96 + i] = low[32 + i] >> 4 | (high[i] >> 6) << 4;
        }
    }
}

/// Each of eight bytes as a pair of numbers.
#[inline]
fn twice(bytes: [u8; EIGHT]) -> [[i16; 2]; EIGHT] {
    bytes.map(|byte| [byte.into(); 2])
}

/// Unpacks eight scales and eight minima of 6 bits: the first four of each are the lower bits of a byte, whose upper bits
/// continue one of the last four.
#[inline]
fn scales_and_minima(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let four = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let [a, b, c] = [four(0), four(4), four(8)];
    let of_upper_bits = |four: u32| (four >> 6 & 0x0303_0303) << 4;
    let eight = |first: u32, last: u32| (u64::from(first & 0x3f3f_3f3f) | u64::from(last) << 32).to_le_bytes();
    (eight(a, c & 0x0f0f_0f0f | of_upper_bits(a)), eight(b, c >> 4 & 0x0f0f_0f0f | of_upper_bits(b)))
}

/// Transposes a matrix of bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: &[[u8; 8]; 8]) -> [[u8; 8]; 8] {
    let mut columns = [[0; 8]; 8];
    // SAFETY: each row has eight bytes, and `columns` has room for four vectors of 16.
    unsafe {
        let pair = |r: usize| {
            let row = |r: usize| _mm_loadl_epi64(rows[r].as_ptr().cast());
            _mm_unpacklo_epi8(row(r), row(r + 1))
        };
        let four = |r: usize| {
            let (a, b) = (pair(r), pair(r + 2));
            [_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)]
        };
        let (upper, lower) = (four(0), four(4));
        let to = columns.as_mut_ptr().cast::<__m128i>();
        for i in 0..2 {
            _mm_storeu_si128(to.add(2 * i), _mm_unpacklo_epi32(upper[i], lower[i]));
            _mm_storeu_si128(to.add(2 * i + 1), _mm_unpackhi_epi32(upper[i], lower[i]));
        }
    }
    columns
}

/// Lays out the values of eight rows four by four, from row `first` on: transposes matrices of eight rows with eight numbers of
/// 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave<const ROWS: usize>(rows: &Unpacked, first: usize, to: &mut [[[u8; GROUP]; ROWS]; BLOCK / GROUP]) {
    let step = ROWS / EIGHT;
    for (i, to) in to.chunks_exact_mut(8).enumerate() {
        // SAFETY: each row has eight such pieces of 32 bytes, and `to` has eight vectors.
        unsafe {
            let row = |r: usize| _mm256_load_si256(rows.0[r].as_ptr().add(32 * i).cast());
            let pairs = |r: usize| {
                let (a, b) = (row(r), row(r + 1));
                [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
            };
            let fours = |r: usize| {
                let ([a, c], [b, d]) = (pairs(r), pairs(r + 2));
                [
                    _mm256_unpacklo_epi64(a, b),
                    _mm256_unpackhi_epi64(a, b),
                    _mm256_unpacklo_epi64(c, d),
                    _mm256_unpackhi_epi64(c, d),
                ]
            };
            let (upper, lower) = (fours(0), fours(4));
            let to = to.as_mut_ptr().cast::<__m256i>().add(first / EIGHT);
            for j in 0..4 {
                _mm256_store_si256(to.add(step * j), _mm256_permute2x128_si256(upper[j], lower[j], 0x20));
                _mm256_store_si256(to.add(step * (4 + j)), _mm256_permute2x128_si256(upper[j], lower[j], 0x31));
            }
        }
    }
}
