//! `Q4_K`, `Q5_K` and `Q6_K` on AVX-512 with VNNI: the sums and the orders of [`k_quants`](super::k_quants), sixteen rows per vector.
//!
//! One `vpdpbusd` multiplies four weights of each row with the same four activations, which are broadcast. The sum of a
//! sub-block is multiplied with its scale as a number of 32 bits.

use std::arch::x86_64::*;

use super::k_quants::{self, Activations, BLOCK, GROUP, PAIRS};
use super::k_quants_pack::{Panel, pack_q4_k_or_q5_k, pack_q4_k_repacked, pack_q6_k};
use super::{Instructions, Kernel, Pack, Tile};

/// Rows per panel.
const ROWS: usize = 16;
/// Columns per tile: more than `vpdpbusd` takes cycles.
const COLS: usize = 6;

/// Weights that ggml has repacked.
pub(super) const Q4_K_REPACKED_ROUTED: Kernel = Kernel {
    row_step: k_quants::Q4_K_REPACKED_ROUTED.row_step,
    least_columns: k_quants::Q4_K_REPACKED_ROUTED.least_columns,
    ..kernel("Q4_K repacked AVX-512 VNNI", pack_q4_k_repacked::<ROWS>, tile_repacked::<1>)
};
pub(super) const Q4_K_REPACKED_DENSE: Kernel = Kernel {
    col_step: k_quants::Q4_K_REPACKED_DENSE.col_step,
    convert_four: k_quants::Q4_K_REPACKED_DENSE.convert_four,
    tile: tile_repacked::<4>,
    ..Q4_K_REPACKED_ROUTED
};
/// Weights as the file has them: fused and apart as in [`k_quants`](super::k_quants).
pub(super) const Q4_K: Kernel =
    kernel("Q4_K AVX-512 VNNI", pack_q4_k_or_q5_k::<0, ROWS>, tile_by_block::<8, false, true>);
pub(super) const Q4_K_APART: Kernel =
    kernel("Q4_K AVX-512 VNNI apart", pack_q4_k_or_q5_k::<0, ROWS>, tile_by_block::<8, false, false>);
pub(super) const Q5_K: Kernel =
    kernel("Q5_K AVX-512 VNNI", pack_q4_k_or_q5_k::<32, ROWS>, tile_by_block::<8, false, true>);
pub(super) const Q5_K_APART: Kernel =
    kernel("Q5_K AVX-512 VNNI apart", pack_q4_k_or_q5_k::<32, ROWS>, tile_by_block::<8, false, false>);
pub(super) const Q6_K: Kernel = q6_k("Q6_K AVX-512 VNNI", tile_by_block::<16, true, true>);
pub(super) const Q6_K_APART: Kernel = q6_k("Q6_K AVX-512 VNNI apart", tile_by_block::<16, true, false>);

const fn q6_k(name: &'static str, tile: Tile) -> Kernel {
    let panel_bytes = |k| k / BLOCK * size_of::<Panel<16, ROWS>>();
    Kernel { panel_bytes, ..kernel(name, pack_q6_k::<ROWS>, tile) }
}

const fn kernel(name: &'static str, pack: Pack, tile: Tile) -> Kernel {
    Kernel {
        instructions: Instructions::Avx512Vnni,
        rows: ROWS,
        cols: COLS,
        panel_bytes: |k| k / BLOCK * size_of::<Panel<8, ROWS>>(),
        ..k_quants::kernel(name, pack, tile)
    }
}

/// Adds the products of the values of sub-blocks with the columns' activations to `sums`, times the scales.
///
/// # Safety
/// The sub-blocks lie within a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_products<const SUBS: usize>(
    panel: &Panel<SUBS, ROWS>,
    columns: [&Activations; COLS],
    subs: std::ops::Range<usize>,
    sums: &mut [__m512i; COLS],
) {
    let groups = BLOCK / GROUP / SUBS;
    for sub in subs {
        let mut products = [_mm512_setzero_si512(); COLS];
        for group in sub * groups..(sub + 1) * groups {
            // SAFETY: by contract there is a vector of weights, and there are four activations.
            unsafe {
                let weights = _mm512_load_si512(panel.values.as_ptr().add(group).cast());
                for c in 0..COLS {
                    let four = columns[c].values.as_ptr().add(group * GROUP).cast::<i32>().read_unaligned();
                    products[c] = _mm512_dpbusd_epi32(products[c], weights, _mm512_set1_epi32(four));
                }
            }
        }
        // SAFETY: by contract the panel has the sub-block's scales.
        let scale = unsafe { _mm512_load_si512(panel.scales.as_ptr().add(sub).cast()) };
        for c in 0..COLS {
            sums[c] = _mm512_add_epi32(sums[c], _mm512_mullo_epi32(products[c], scale));
        }
    }
}

/// Returns the activations' sums times the panel's factors, added for pairs of sums.
///
/// # Safety
/// The pairs lie within a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn factors_times_sums<const SUBS: usize>(
    panel: &Panel<SUBS, ROWS>,
    columns: [&Activations; COLS],
    pairs: std::ops::Range<usize>,
) -> [__m512i; COLS] {
    let mut sums = [_mm512_setzero_si512(); COLS];
    for pair in pairs {
        // SAFETY: by contract there are factors and two sums.
        unsafe {
            let factors = _mm512_load_si512(panel.factors.as_ptr().add(pair).cast());
            for c in 0..COLS {
                let two = columns[c].sums.as_ptr().add(2 * pair).cast::<i32>().read_unaligned();
                sums[c] = _mm512_dpwssd_epi32(sums[c], factors, _mm512_set1_epi32(two));
            }
        }
    }
    sums
}

/// Block `b` of a panel and of the columns.
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
        (&*panel.cast::<Panel<SUBS, ROWS>>().add(b), [0, 1, 2, 3, 4, 5].map(column))
    }
}

/// Returns the scales of the rows' blocks and those of their minima.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales_of_block<const SUBS: usize>(panel: &Panel<SUBS, ROWS>) -> (__m512, __m512) {
    // SAFETY: both have sixteen floats.
    unsafe { (_mm512_loadu_ps(panel.scale.as_ptr()), _mm512_loadu_ps(panel.scale_of_minima.as_ptr())) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_by_block<const SUBS: usize, const OFFSET: bool, const FUSED: bool>(
    k: usize,
    panel: *const u8,
    columns: &[*const u8],
    _scratch: *mut f32,
    out: *mut f32,
) {
    let mut results = [_mm512_setzero_ps(); COLS];
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel and the columns are of `k` values.
        let (panel, columns) = unsafe { block::<SUBS>(panel, columns, b) };
        let mut sums = [_mm512_setzero_si512(); COLS];
        // SAFETY: these are all sub-blocks and all pairs of a block.
        let factors = unsafe {
            add_products(panel, columns, 0..SUBS, &mut sums);
            factors_times_sums(panel, columns, 0..PAIRS)
        };
        let (scale, scale_of_minima) = scales_of_block(panel);
        for c in 0..COLS {
            // The values of Q6_K have 32 added; its factors are the scales.
            let sum = if OFFSET { _mm512_sub_epi32(sums[c], _mm512_slli_epi32(factors[c], 5)) } else { sums[c] };
            let mut result = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum));
            if !OFFSET {
                result = _mm512_fnmadd_ps(scale_of_minima, _mm512_cvtepi32_ps(factors[c]), result);
            }
            let of_column = _mm512_set1_ps(columns[c].scale);
            results[c] = if FUSED {
                _mm512_fmadd_ps(result, of_column, results[c])
            } else {
                _mm512_add_ps(results[c], _mm512_mul_ps(result, of_column))
            };
        }
    }
    for c in 0..COLS {
        // SAFETY: by contract `out` has sixteen floats per column.
        unsafe { _mm512_storeu_ps(out.add(c * ROWS), results[c]) };
    }
}

/// Computes a tile of repacked `Q4_K` weights with `PARTS` integer sums per block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_repacked<const PARTS: usize>(
    k: usize,
    panel: *const u8,
    columns: &[*const u8],
    _scratch: *mut f32,
    out: *mut f32,
) {
    const SUBS: usize = 8;
    let mut results = [_mm512_setzero_ps(); COLS];
    let mut minima = [_mm512_setzero_ps(); COLS];
    for b in 0..k / BLOCK {
        // SAFETY: by contract the panel and the columns are of `k` values.
        let (panel, columns) = unsafe { block::<SUBS>(panel, columns, b) };
        let (scale, scale_of_minima) = scales_of_block(panel);
        for part in 0..PARTS {
            let of_part = |count: usize| part * count / PARTS..(part + 1) * count / PARTS;
            let mut sums = [_mm512_setzero_si512(); COLS];
            // SAFETY: the parts of a block are one or four, of eight or two sub-blocks and pairs.
            let factors = unsafe {
                add_products(panel, columns, of_part(SUBS), &mut sums);
                factors_times_sums(panel, columns, of_part(PAIRS))
            };
            for c in 0..COLS {
                let of_column = _mm512_set1_ps(columns[c].scale);
                results[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), _mm512_mul_ps(scale, of_column), results[c]);
                let of_minima = _mm512_mul_ps(scale_of_minima, of_column);
                minima[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(factors[c]), of_minima, minima[c]);
            }
        }
    }
    for c in 0..COLS {
        // SAFETY: by contract `out` has sixteen floats per column.
        unsafe { _mm512_storeu_ps(out.add(c * ROWS), _mm512_sub_ps(results[c], minima[c])) };
    }
}
