//! `Q4_K`, `Q5_K` and `Q6_K` weights with `Q8_K` activations, with ggml's bits on x86.
//!
//! A block has 256 values and an f16 scale. Its sub-blocks have a scale each, an integer, and in `Q4_K` and `Q5_K` a
//! minimum that is subtracted from their values. ggml adds the products of a block as integers, exactly; only what it
//! does with these sums is rounded. So the kernels may add the integers in any order, and keep ggml's order of the rest.
//! ggml has three:
//!
//! - [`tile_by_row`]: `ggml_gemv_q4_K_8x8_q8_K`, for routed products with weights that it has repacked. Minima are
//!   subtracted at the end.
//! - [`tile_by_64`]: `ggml_gemm_q4_K_8x8_q8_K`, for dense products with such weights. The same, but sums are of 64 values.
//! - [`tile_by_block`]: `tiled_run_microtile`, for weights as the file has them. Minima are subtracted per block.

use std::arch::x86_64::*;

use super::super::cpu;
use super::k_quants_pack::{Panel, pack_q4_k_or_q5_k, pack_q4_k_repacked, pack_q6_k};
use super::{Instructions, Kernel, Pack, Tile};

/// Values per block.
pub(super) const BLOCK: usize = 256;
/// Rows per panel and columns per tile: per column there is a sum of 16 bits and one of 32 bits per row.
const ROWS: usize = 8;
const COLS: usize = 4;
/// Values of each row per vector of a panel.
pub(super) const GROUP: usize = 4;
/// Sums of 16 activations per block, in pairs.
pub(super) const PAIRS: usize = 8;

/// A block of activations, as ggml converts them: `block_q8_K`.
#[repr(C)]
pub(super) struct Activations {
    pub(super) scale: f32,
    pub(super) values: [i8; BLOCK],
    /// The sums of 16 values each.
    pub(super) sums: [i16; 2 * PAIRS],
}

/// Blocks of four rows: `block_q8_Kx4`.
#[repr(C)]
struct FourActivations {
    scale: [f32; 4],
    /// Eight values of each row in turn.
    values: [[[i8; 8]; 4]; BLOCK / 8],
    /// Four sums of each row in turn.
    sums: [[[i16; 4]; 4]; PAIRS / 2],
}

/// Weights that ggml has repacked, eight rows in turn.
pub(super) const Q4_K_REPACKED_ROUTED: Kernel = Kernel {
    row_step: ROWS,
    least_columns: 1,
    longest_row: usize::MAX,
    ..kernel("Q4_K repacked AVX2", pack_q4_k_repacked::<ROWS>, tile_by_row)
};
pub(super) const Q4_K_REPACKED_DENSE: Kernel =
    Kernel { col_step: 4, convert_four: Some(convert_four), tile: tile_by_64, ..Q4_K_REPACKED_ROUTED };
/// Weights as the file has them. ggml's code for AVX2 fuses its last multiplication and addition. In its code for AVX-512
/// that is left to the compiler.
pub(super) const Q4_K: Kernel = kernel("Q4_K AVX2", pack_q4_k_or_q5_k::<0, ROWS>, tile_by_block::<8, 8, false, true>);
pub(super) const Q4_K_APART: Kernel =
    kernel("Q4_K AVX2 apart", pack_q4_k_or_q5_k::<0, ROWS>, tile_by_block::<8, 8, false, false>);
pub(super) const Q5_K: Kernel = kernel("Q5_K AVX2", pack_q4_k_or_q5_k::<32, ROWS>, tile_by_block::<8, 4, false, true>);
pub(super) const Q5_K_APART: Kernel =
    kernel("Q5_K AVX2 apart", pack_q4_k_or_q5_k::<32, ROWS>, tile_by_block::<8, 4, false, false>);
pub(super) const Q6_K: Kernel = q6_k("Q6_K AVX2", tile_by_block::<16, 2, true, true>);
pub(super) const Q6_K_APART: Kernel = q6_k("Q6_K AVX2 apart", tile_by_block::<16, 2, true, false>);

const fn q6_k(name: &'static str, tile: Tile) -> Kernel {
    Kernel { panel_bytes: |k| k / BLOCK * size_of::<Panel<16, ROWS>>(), ..kernel(name, pack_q6_k::<ROWS>, tile) }
}

/// A kernel for weights with eight sub-blocks per block.
pub(super) const fn kernel(name: &'static str, pack: Pack, tile: Tile) -> Kernel {
    Kernel {
        name,
        instructions: Instructions::Avx2,
        rows: ROWS,
        cols: COLS,
        step: BLOCK,
        row_step: 1,
        col_step: 1,
        least_columns: 8,
        longest_row: usize::MAX,
        convert_four: None,
        panel_bytes: |k| k / BLOCK * size_of::<Panel<8, ROWS>>(),
        column_bytes: |k| k / BLOCK * size_of::<Activations>(),
        scratch: |_| 0,
        prepare,
        pack,
        tile,
    }
}

/// A column has ggml's own layout.
unsafe fn prepare(converted: *const u8, k: usize, column: *mut u8) -> bool {
    // SAFETY: by contract both have the blocks of `k` values.
    unsafe { std::ptr::copy_nonoverlapping(converted, column, k / BLOCK * size_of::<Activations>()) };
    true
}

/// As ggml converts rows for `ggml_gemm_q4_K_8x8_q8_K`: where the largest value of a block has both signs, the block's scale
/// may have the other sign than in [`prepare`]'s.
unsafe fn convert_four(ggml: cpu::ConvertFour, rows: *const f32, k: usize, converted: *mut u8, columns: [*mut u8; 4]) {
    // SAFETY: by contract there are four rows of `k` values, and room for as many in both layouts.
    unsafe {
        ggml(rows, converted.cast(), k as i64);
        for b in 0..k / BLOCK {
            let four = &*converted.cast::<FourActivations>().add(b);
            for (r, column) in columns.into_iter().enumerate() {
                let block = &mut *column.cast::<Activations>().add(b);
                block.scale = four.scale[r];
                for (to, from) in block.values.chunks_exact_mut(8).zip(&four.values) {
                    to.copy_from_slice(&from[r]);
                }
                for (to, from) in block.sums.chunks_exact_mut(4).zip(&four.sums) {
                    to.copy_from_slice(&from[r]);
                }
            }
        }
    }
}

/// Adds the products of groups of four values with four columns to `sums`, times the scales of the groups' sub-blocks. The sum of
/// `AT_ONCE` groups fits into 16 bits.
///
/// # Safety
/// The groups lie within a block, and `AT_ONCE` divides their number.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products<const AT_ONCE: usize, const SUBS: usize>(
    panel: &Panel<SUBS, ROWS>,
    columns: [&Activations; COLS],
    groups: std::ops::Range<usize>,
    sums: &mut [__m256i; COLS],
) {
    let mut first = groups.start;
    while first < groups.end {
        let mut products = [_mm256_setzero_si256(); COLS];
        for i in 0..AT_ONCE {
            let group = first + i;
            // SAFETY: by contract there is a vector of weights, and there are four activations.
            unsafe {
                let weights = _mm256_load_si256(panel.values.as_ptr().add(group).cast());
                for c in 0..COLS {
                    let four = columns[c].values.as_ptr().add(group * GROUP).cast::<i32>().read_unaligned();
                    let pairs = _mm256_maddubs_epi16(weights, _mm256_set1_epi32(four));
                    products[c] = _mm256_add_epi16(products[c], pairs);
                }
            }
        }
        // SAFETY: as above, and each group is part of a sub-block.
        let scale = unsafe { _mm256_load_si256(panel.scales.as_ptr().add(first * GROUP * SUBS / BLOCK).cast()) };
        for c in 0..COLS {
            sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(products[c], scale));
        }
        first += AT_ONCE;
    }
}

/// Returns the activations' sums times the panel's factors, added for pairs of sums.
///
/// # Safety
/// The pairs lie within a block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn factors_times_sums<const SUBS: usize>(
    panel: &Panel<SUBS, ROWS>,
    columns: [&Activations; COLS],
    pairs: std::ops::Range<usize>,
) -> [__m256i; COLS] {
    let mut sums = [_mm256_setzero_si256(); COLS];
    for pair in pairs {
        // SAFETY: by contract there are factors and two sums.
        unsafe {
            let factors = _mm256_load_si256(panel.factors.as_ptr().add(pair).cast());
            for c in 0..COLS {
                let two = columns[c].sums.as_ptr().add(2 * pair).cast::<i32>().read_unaligned();
                sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(factors, _mm256_set1_epi32(two)));
            }
        }
    }
    sums
}

/// Block `b` of a panel and of four columns.
///
/// # Safety
/// They have it, in these layouts.
#[inline]
unsafe fn block<'a, const SUBS: usize>(
    panel: *const u8,
    columns: &[*const u8],
    b: usize,
) -> (&'a Panel<SUBS, ROWS>, [&'a Activations; COLS]) {
    // SAFETY: our own contract. Panels and columns begin on cache lines.
    unsafe {
        let column = |c: usize| &*columns.get_unchecked(c).cast::<Activations>().add(b);
        (&*panel.cast::<Panel<SUBS, ROWS>>().add(b), [column(0), column(1), column(2), column(3)])
    }
}

/// Returns the scales of the rows' blocks and those of their minima.
#[inline]
#[target_feature(enable = "avx")]
fn scales_of_block<const SUBS: usize>(panel: &Panel<SUBS, ROWS>) -> (__m256, __m256) {
    // SAFETY: both have eight floats.
    unsafe { (_mm256_loadu_ps(panel.scale.as_ptr()), _mm256_loadu_ps(panel.scale_of_minima.as_ptr())) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_by_block<const SUBS: usize, const AT_ONCE: usize, const OFFSET: bool, const FUSED: bool>(
    k: usize,
    panel: *const u8,
    columns: &[*const u8],
    _scratch: *mut f32,
    out: *mut f32,
) {
    let mut results = [_mm256_setzero_ps(); COLS];
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel and the four columns are of `k` values.
        let (panel, columns) = unsafe { block::<SUBS>(panel, columns, b) };
        let mut sums = [_mm256_setzero_si256(); COLS];
        // SAFETY: these are all groups and all pairs of a block.
        let factors = unsafe {
            add_products::<AT_ONCE, SUBS>(panel, columns, 0..BLOCK / GROUP, &mut sums);
            factors_times_sums(panel, columns, 0..PAIRS)
        };
        let (scale, scale_of_minima) = scales_of_block(panel);
        for c in 0..COLS {
            // The values of Q6_K have 32 added; its factors are the scales.
            let sum = if OFFSET { _mm256_sub_epi32(sums[c], _mm256_slli_epi32(factors[c], 5)) } else { sums[c] };
            let mut result = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sum));
            if !OFFSET {
                result = _mm256_fnmadd_ps(scale_of_minima, _mm256_cvtepi32_ps(factors[c]), result);
            }
            let of_column = _mm256_set1_ps(columns[c].scale);
            results[c] = if FUSED {
                _mm256_fmadd_ps(result, of_column, results[c])
            } else {
                _mm256_add_ps(results[c], _mm256_mul_ps(result, of_column))
            };
        }
    }
    for c in 0..COLS {
        // SAFETY: by contract `out` has 32 floats.
        unsafe { _mm256_storeu_ps(out.add(c * ROWS), results[c]) };
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_by_row(k: usize, panel: *const u8, columns: &[*const u8], _scratch: *mut f32, out: *mut f32) {
    // SAFETY: our own contract.
    unsafe { tile_repacked::<1>(k, panel, columns, out) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_by_64(k: usize, panel: *const u8, columns: &[*const u8], _scratch: *mut f32, out: *mut f32) {
    // SAFETY: our own contract.
    unsafe { tile_repacked::<4>(k, panel, columns, out) }
}

/// Computes a tile of repacked `Q4_K` weights with `PARTS` integer sums per block.
///
/// # Safety
/// As for a kernel's tile.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_repacked<const PARTS: usize>(k: usize, panel: *const u8, columns: &[*const u8], out: *mut f32) {
    let mut results = [_mm256_setzero_ps(); COLS];
    let mut minima = [_mm256_setzero_ps(); COLS];
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel and the four columns are of `k` values.
        let (panel, columns) = unsafe { block::<8>(panel, columns, b) };
        let (scale, scale_of_minima) = scales_of_block(panel);
        for part in 0..PARTS {
            let of_part = |count: usize| part * count / PARTS..(part + 1) * count / PARTS;
            let mut sums = [_mm256_setzero_si256(); COLS];
            // SAFETY: the parts of a block are one or four, of 64 or 16 groups and of 8 or 2 pairs.
            let factors = unsafe {
                add_products::<8, 8>(panel, columns, of_part(BLOCK / GROUP), &mut sums);
                factors_times_sums(panel, columns, of_part(PAIRS))
            };
            for c in 0..COLS {
                let of_column = _mm256_set1_ps(columns[c].scale);
                results[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c]), _mm256_mul_ps(scale, of_column), results[c]);
                let of_minima = _mm256_mul_ps(scale_of_minima, of_column);
                minima[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(factors[c]), of_minima, minima[c]);
            }
        }
    }
    for c in 0..COLS {
        // SAFETY: by contract `out` has 32 floats.
        unsafe { _mm256_storeu_ps(out.add(c * ROWS), _mm256_sub_ps(results[c], minima[c])) };
    }
}
