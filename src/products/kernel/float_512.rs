//! F16 and BF16 weights on AVX-512: [`float`](super::float) with vectors of sixteen lanes, and BF16 by `vdpbf16ps`
//! where ggml takes that.

use std::arch::x86_64::*;

use super::lanes::sum_of_four;
use super::{Instructions, Kernel};

/// Rows and columns per tile: 24 sums, 6 columns and a row of 32 registers.
const ROWS: usize = 4;
const COLS: usize = 6;
/// f32 values per vector.
const LANES: usize = 16;

/// `ggml_vec_dot_f16`.
pub(super) const F16_ROUTED: Kernel =
    kernel("F16 AVX-512", 4, 16, pack::<4, F16>, prepare::<4, F16>, tile::<4, F16, true>);
/// `ggml_vec_dot_bf16` without `vdpbf16ps`, its multiplications and additions fused by the compiler.
pub(super) const BF16_ROUTED_FUSED: Kernel =
    kernel("BF16 AVX-512 fused", 2, 16, pack::<2, BF16>, prepare::<2, BF16>, tile::<2, BF16, true>);
/// `ggml_vec_dot_bf16` without `vdpbf16ps`, as it is written.
pub(super) const BF16_ROUTED: Kernel =
    kernel("BF16 AVX-512", 2, 16, pack::<2, BF16>, prepare::<2, BF16>, tile::<2, BF16, false>);
/// `ggml_vec_dot_bf16` with `vdpbf16ps`.
pub(super) const BF16_PAIRS_ROUTED: Kernel = Kernel {
    instructions: Instructions::Avx512Bf16,
    ..kernel("BF16 AVX-512 BF16", 2, 32, pack::<2, PAIRS>, prepare::<2, PAIRS>, tile::<2, PAIRS, true>)
};
/// `tinyBLAS<16, __m512, __m512, ggml_fp16_t, ggml_fp16_t, float>`.
pub(super) const F16_DENSE: Kernel = Kernel {
    row_step: 4,
    longest_row: 4096,
    ..kernel("F16 AVX-512", 1, 16, pack::<1, F16>, prepare::<1, F16>, tile::<1, F16, true>)
};
/// What a vector is loaded from.
const F16: u8 = 0;
const BF16: u8 = 1;
/// 32 BF16 values, multiplied in pairs.
const PAIRS: u8 = 2;

const fn kernel(
    name: &'static str,
    parts: usize,
    values: usize,
    pack: unsafe fn(&[*const u8], usize, *mut u8),
    prepare: unsafe fn(*const u8, usize, *mut u8) -> bool,
    tile: unsafe fn(usize, *const u8, &[*const u8], *mut f32, *mut f32),
) -> Kernel {
    Kernel {
        name,
        instructions: Instructions::Avx512,
        rows: ROWS,
        cols: COLS,
        step: parts * values,
        row_step: 1,
        col_step: 1,
        least_columns: 1,
        longest_row: usize::MAX,
        convert_four: None,
        panel_bytes: if values == 32 { |k| ROWS * k * 2 } else { |k| ROWS * k * 4 },
        column_bytes: if values == 32 { |k| k * 2 } else { |k| k * 4 },
        scratch: |_| 4 * ROWS * COLS * LANES,
        prepare,
        pack,
        tile,
    }
}

/// Values per vector.
const fn values(kind: u8) -> usize {
    if kind == PAIRS { 32 } else { 16 }
}

/// The vector of values at `i`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<const KIND: u8>(row: *const u8, i: usize) -> __m512 {
    // SAFETY: by contract of the callers values() values of two bytes are there.
    unsafe {
        let row = row.add(i * 2);
        match KIND {
            PAIRS => _mm512_loadu_ps(row.cast()),
            BF16 => {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(row.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16))
            }
            _ => _mm512_cvtph_ps(_mm256_loadu_si256(row.cast())),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn prepare<const PARTS: usize, const KIND: u8>(converted: *const u8, k: usize, column: *mut u8) -> bool {
    let mut to = column.cast::<f32>();
    for part in 0..PARTS {
        for step in 0..k / (PARTS * values(KIND)) {
            // SAFETY: by contract the source has `k` values, each read once, and the destination has room for `k`
            // values.
            unsafe {
                _mm512_storeu_ps(to, load::<KIND>(converted, (step * PARTS + part) * values(KIND)));
                to = to.add(LANES);
            }
        }
    }
    true
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack<const PARTS: usize, const KIND: u8>(rows: &[*const u8], k: usize, panel: *mut u8) {
    let mut to = panel.cast::<f32>();
    for part in 0..PARTS {
        for step in 0..k / (PARTS * values(KIND)) {
            for &row in &rows[..ROWS] {
                // SAFETY: by contract each row has `k` values, and the panel has room for `k` values per row.
                unsafe {
                    _mm512_storeu_ps(to, load::<KIND>(row, (step * PARTS + part) * values(KIND)));
                    to = to.add(LANES);
                }
            }
        }
    }
}

/// `sum + a * b`, with one rounding or two; of pairs as `vdpbf16ps` does it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn multiply_add<const KIND: u8, const FUSED: bool>(a: __m512, b: __m512, sum: __m512) -> __m512 {
    if KIND == PAIRS {
        // SAFETY: kernels of pairs are available where the CPU has the instruction.
        return unsafe { multiply_add_pairs(a, b, sum) };
    }
    if FUSED { _mm512_fmadd_ps(a, b, sum) } else { _mm512_add_ps(_mm512_mul_ps(a, b), sum) }
}

/// # Safety
/// The CPU has AVX512-BF16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_add_pairs(a: __m512, b: __m512, mut sum: __m512) -> __m512 {
    // The intrinsic's operands have a type of their own, and a function that is to be inlined into the tile cannot
    // enable what the tile does not. SAFETY: by contract the instruction exists; it reads and writes registers alone.
    unsafe {
        std::arch::asm!("vdpbf16ps {sum}, {a}, {b}", sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack));
    }
    sum
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile<const PARTS: usize, const KIND: u8, const FUSED: bool>(
    k: usize,
    panel: *const u8,
    columns: &[*const u8],
    scratch: *mut f32,
    out: *mut f32,
) {
    let steps = k / (PARTS * values(KIND));
    // SAFETY: by contract the panel has 4 rows and there are 6 columns of `k` values each, `scratch` has 4 vectors per
    // row and column, and `out` has 24 floats.
    unsafe {
        let mut x = panel.cast::<f32>();
        let mut y: [*const f32; COLS] = [0, 1, 2, 3, 4, 5].map(|c| columns.get_unchecked(c).cast::<f32>());
        for part in 0..PARTS {
            let mut sums = [[_mm512_setzero_ps(); ROWS]; COLS];
            for _ in 0..steps {
                let columns = y.map(|y| _mm512_loadu_ps(y));
                for r in 0..ROWS {
                    let row = _mm512_loadu_ps(x.add(r * LANES));
                    for c in 0..COLS {
                        sums[c][r] = multiply_add::<KIND, FUSED>(row, columns[c], sums[c][r]);
                    }
                }
                x = x.add(ROWS * LANES);
                y = y.map(|y| y.add(LANES));
            }
            for c in 0..COLS {
                for r in 0..ROWS {
                    _mm512_storeu_ps(scratch.add(((c * ROWS + r) * PARTS + part) * LANES), sums[c][r]);
                }
            }
        }
        for c in 0..COLS {
            let part = |r: usize, p: usize| _mm512_loadu_ps(scratch.add(((c * ROWS + r) * PARTS + p) * LANES));
            // Routed F16 adds four vectors and their lanes; BF16 adds the lanes of each of its two, then both in f64.
            let sum = if PARTS == 1 {
                sum_of_rows([0, 1, 2, 3].map(|r| part(r, 0)))
            } else if PARTS == 4 {
                sum_of_rows([0, 1, 2, 3].map(|r| {
                    _mm512_add_ps(_mm512_add_ps(part(r, 0), part(r, 2)), _mm512_add_ps(part(r, 1), part(r, 3)))
                }))
            } else {
                let first = _mm256_cvtps_pd(sum_of_rows([0, 1, 2, 3].map(|r| part(r, 0))));
                let second = _mm256_cvtps_pd(sum_of_rows([0, 1, 2, 3].map(|r| part(r, 1))));
                // To a zero, as ggml does: what is left of a negative zero has no sign.
                _mm256_cvtpd_ps(_mm256_add_pd(_mm256_add_pd(first, _mm256_setzero_pd()), second))
            };
            _mm_storeu_ps(out.add(c * ROWS), sum);
        }
    }
}

/// The sums of four vectors, each as GCC's `_mm512_reduce_add_ps` adds: halves, halves of that, and as for eight lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sum_of_rows(v: [__m512; 4]) -> __m128 {
    sum_of_four(v.map(|v| {
        let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
        _mm256_add_ps(_mm256_castpd_ps(upper), _mm512_castps512_ps256(v))
    }))
}
