//! F16 and BF16 weights, multiplied as f32, with ggml's bits on x86.
//!
//! Routed products have those of `ggml_vec_dot_f16` and `ggml_vec_dot_bf16`: four vectors of eight lanes per dot product. Of
//! each 32 values, vector `p` takes those from `32i + 8p` on. Dense BF16 products have those of tinyBLAS, with one vector.
//! Both convert each value to f32 when they read it; the kernels convert weights once per panel. For dense F16 products that gains
//! nothing: the CPU converts F16 with one instruction.
//!
//! A panel holds, for each of the vectors in turn, the eight values of each row as f32, step by step. A column holds
//! its values in the same order and its own type: it streams through the cache, and half the bytes cost less than the
//! conversion.

use std::arch::asm;
use std::arch::x86_64::*;

use super::lanes::{sum_of_four, sum_of_four_by_pairs};
use super::{Instructions, Kernel};

/// Rows and columns per tile: 12 sums, 3 columns and a row are all of AVX2's registers.
const ROWS: usize = 4;
const COLS: usize = 3;
/// Lanes per vector.
const LANES: usize = 8;

/// `ggml_vec_dot_f16`.
pub(super) const F16_ROUTED: Kernel = kernel::<4, false, true, PAIRS>("F16 AVX2");
/// `ggml_vec_dot_bf16` where the compiler has fused its multiplications and additions, as GCC does.
pub(super) const BF16_ROUTED_FUSED: Kernel = kernel::<4, true, true, HALVES_AND_ZERO>("BF16 AVX2 fused");
/// `ggml_vec_dot_bf16` as it is written.
pub(super) const BF16_ROUTED: Kernel = kernel::<4, true, false, HALVES_AND_ZERO>("BF16 AVX2");
/// `tinyBLAS<8, __m256, __m256, ggml_bf16_t, ggml_bf16_t, float>`.
pub(super) const BF16_DENSE: Kernel = Kernel { row_step: 4, ..kernel::<1, true, true, HALVES>("BF16 AVX2") };
/// The last lanes are added two apart.
const HALVES: u8 = 0;
/// The same, and a sum of zero has no sign: ggml adds it to a zero.
const HALVES_AND_ZERO: u8 = 1;
/// The last lanes are added in pairs.
const PAIRS: u8 = 2;

/// A kernel with `PARTS` vectors of sums per dot product.
const fn kernel<const PARTS: usize, const BF16: bool, const FUSED: bool, const SUM: u8>(name: &'static str) -> Kernel {
    Kernel {
        name,
        instructions: Instructions::Avx2,
        rows: ROWS,
        cols: COLS,
        step: PARTS * LANES,
        row_step: 1,
        col_step: 1,
        least_columns: 1,
        longest_row: usize::MAX,
        convert_four: None,
        panel_bytes: |k| ROWS * k * 4,
        column_bytes: |k| k * 2,
        scratch: |_| PARTS * ROWS * COLS * LANES,
        prepare: prepare::<PARTS>,
        pack: pack::<PARTS, BF16>,
        tile: tile::<PARTS, BF16, FUSED, SUM>,
    }
}

/// Eight values at `i`, as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load<const BF16: bool>(row: *const u8, i: usize) -> __m256 {
    // SAFETY: by contract of the callers eight values of two bytes are there.
    let halves = unsafe { _mm_loadu_si128(row.add(i * 2).cast()) };
    if BF16 {
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))
    } else {
        _mm256_cvtph_ps(halves)
    }
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn prepare<const PARTS: usize>(converted: *const u8, k: usize, column: *mut u8) -> bool {
    let steps = k / (PARTS * LANES);
    for part in 0..PARTS {
        for step in 0..steps {
            // SAFETY: by contract the source has `k` values, each read once, and the destination has room for `k`
            // values.
            unsafe {
                let values = _mm_loadu_si128(converted.add((step * PARTS + part) * LANES * 2).cast());
                _mm_storeu_si128(column.add((part * steps + step) * LANES * 2).cast(), values);
            }
        }
    }
    true
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn pack<const PARTS: usize, const BF16: bool>(rows: &[*const u8], k: usize, panel: *mut u8) {
    let steps = k / (PARTS * LANES);
    let mut to = panel.cast::<f32>();
    for part in 0..PARTS {
        for step in 0..steps {
            for &row in &rows[..ROWS] {
                // SAFETY: by contract each row has `k` values, and the panel has room for `k` floats per row.
                unsafe {
                    _mm256_storeu_ps(to, load::<BF16>(row, (step * PARTS + part) * LANES));
                    to = to.add(LANES);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const PARTS: usize, const BF16: bool, const FUSED: bool, const SUM: u8>(
    k: usize,
    panel: *const u8,
    columns: &[*const u8],
    scratch: *mut f32,
    out: *mut f32,
) {
    let steps = k / (PARTS * LANES);
    // SAFETY: by contract the panel has 4 rows of `k` floats, the three columns `k` values each, `scratch` has all
    // vectors of sums, and `out` has 12 floats.
    unsafe {
        let mut x = panel.cast::<f32>();
        let mut y: [*const u8; COLS] = [0, 1, 2].map(|c| *columns.get_unchecked(c));
        for part in 0..PARTS {
            let mut sums = [[_mm256_setzero_ps(); ROWS]; COLS];
            for _ in 0..steps {
                let columns = y.map(|y| load::<BF16>(y, 0));
                for r in 0..ROWS {
                    let mut of_row = [sums[0][r], sums[1][r], sums[2][r]];
                    multiply_add::<FUSED>(x.add(r * LANES), columns, &mut of_row);
                    [sums[0][r], sums[1][r], sums[2][r]] = of_row;
                }
                x = x.add(ROWS * LANES);
                y = y.map(|y| y.add(LANES * 2));
            }
            for c in 0..COLS {
                for r in 0..ROWS {
                    _mm256_storeu_ps(scratch.add(((c * ROWS + r) * PARTS + part) * LANES), sums[c][r]);
                }
            }
        }
        for c in 0..COLS {
            let sums = [0, 1, 2, 3].map(|r| {
                let part = |p: usize| _mm256_loadu_ps(scratch.add(((c * ROWS + r) * PARTS + p) * LANES));
                match PARTS {
                    1 => part(0),
                    _ => _mm256_add_ps(_mm256_add_ps(part(0), part(2)), _mm256_add_ps(part(1), part(3))),
                }
            });
            let sum = match SUM {
                PAIRS => sum_of_four_by_pairs(sums),
                HALVES_AND_ZERO => _mm_add_ps(sum_of_four(sums), _mm_setzero_ps()),
                _ => sum_of_four(sums),
            };
            _mm_storeu_ps(out.add(c * ROWS), sum);
        }
    }
}

/// Adds to a row's three sums the products of its next eight values with the columns'.
///
/// In assembler: the tile needs all 16 registers, and LLVM, where it compiles for any x86-64, orders the instructions so that it
/// needs more and takes twice as long.
///
/// # Safety
/// The CPU has AVX and FMA; `row` has eight floats.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_add<const FUSED: bool>(row: *const f32, columns: [__m256; COLS], sums: &mut [__m256; COLS]) {
    let work: __m256;
    // SAFETY: by contract the instructions exist, and what they read can be read.
    unsafe {
        if FUSED {
            asm!(
                "vmovups {work}, [{row}]",
                "vfmadd231ps {a}, {work}, {x}",
                "vfmadd231ps {b}, {work}, {y}",
                "vfmadd231ps {c}, {work}, {z}",
                row = in(reg) row, x = in(ymm_reg) columns[0], y = in(ymm_reg) columns[1], z = in(ymm_reg) columns[2],
                a = inout(ymm_reg) sums[0], b = inout(ymm_reg) sums[1], c = inout(ymm_reg) sums[2],
                work = out(ymm_reg) work, options(pure, readonly, nostack),
            );
        } else {
            asm!(
                "vmulps {work}, {x}, [{row}]",
                "vaddps {a}, {work}, {a}",
                "vmulps {work}, {y}, [{row}]",
                "vaddps {b}, {work}, {b}",
                "vmulps {work}, {z}, [{row}]",
                "vaddps {c}, {work}, {c}",
                row = in(reg) row, x = in(ymm_reg) columns[0], y = in(ymm_reg) columns[1], z = in(ymm_reg) columns[2],
                a = inout(ymm_reg) sums[0], b = inout(ymm_reg) sums[1], c = inout(ymm_reg) sums[2],
                work = out(ymm_reg) work, options(pure, readonly, nostack),
            );
        }
    }
    let _ = work; // not a bare `_` above: the type tells LLVM which registers to choose from
}
