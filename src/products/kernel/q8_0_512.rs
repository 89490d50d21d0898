//! `Q8_0` on AVX-512 with VNNI: the sums and the order of [`q8_0`](super::q8_0), laid out so that no lane is ever
//! shuffled.
//!
//! A vector holds the same of ggml's eight lanes for sixteen rows. Per lane and column one `vpdpbusd` multiplies four
//! weights of each row with the same four activations, which are broadcast. That instruction takes weights without a
//! sign: they have 128 added, and the sum starts with -128 times the four activations. At the end ggml's order of lanes
//! is a few additions of whole vectors.
//!
//! Per block, a panel holds eight vectors of sixteen rows' four values each; after all blocks, sixteen f32 scales each.
//! A column holds its values, then the start of each sum as i32, then its scales as f32.

use std::arch::asm;
use std::arch::x86_64::*;

use super::q8_0::{BLOCK, BLOCK_BYTES, has_lowest, prepare_with_starts, scale};
use super::{Instructions, Kernel};

/// ggml's lanes.
const LANES: usize = 8;
const ROWS: usize = 16;
/// Columns per tile: 24 sums, three products of scales, the weights and room to work in.
const COLS: usize = 3;

/// AVX-512 with VNNI.
pub(super) const AVX512_VNNI: Kernel = Kernel {
    name: "Q8_0 AVX-512 VNNI",
    instructions: Instructions::Avx512Vnni,
    rows: ROWS,
    cols: COLS,
    step: BLOCK,
    row_step: 1,
    col_step: 1,
    least_columns: 1,
    longest_row: usize::MAX,
    convert_four: None,
    panel_bytes: |k| ROWS * (k + k / BLOCK * 4),
    column_bytes: |k| 2 * k + k / BLOCK * 4,
    scratch: |_| 0,
    prepare,
    pack,
    tile,
};

prepare_with_starts!(prepare, "avx512f,avx512bw,avx512vl,avx512vnni,f16c", _mm256_dpbusd_epi32);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn pack(rows: &[*const u8], k: usize, panel: *mut u8) {
    let blocks = k / BLOCK;
    let flip = _mm256_set1_epi8(i8::MIN);
    // SAFETY: by contract there are sixteen rows of `blocks` blocks, and `panel` has room for their values and scales.
    unsafe {
        let scales = panel.add(ROWS * k).cast::<f32>();
        for b in 0..blocks {
            for half in 0..2 {
                let row = |r: usize| {
                    let block = rows.get_unchecked(half * 8 + r).add(b * BLOCK_BYTES);
                    *scales.add(b * ROWS + half * 8 + r) = scale(block);
                    _mm256_xor_si256(_mm256_loadu_si256(block.add(2).cast()), flip)
                };
                let lanes = transpose([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
                for (lane, values) in lanes.into_iter().enumerate() {
                    _mm256_storeu_si256(panel.add((b * LANES + lane) * 64 + half * 32).cast(), values);
                }
            }
        }
    }
}

/// Eight rows of eight i32 to eight columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let pairs = |i: usize| {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
    };
    let ((a, b), (c, d), (e, f), (g, h)) = (pairs(0), pairs(1), pairs(2), pairs(3));
    let upper = [
        _mm256_unpacklo_epi64(a, c),
        _mm256_unpackhi_epi64(a, c),
        _mm256_unpacklo_epi64(b, d),
        _mm256_unpackhi_epi64(b, d),
    ];
    let lower = [
        _mm256_unpacklo_epi64(e, g),
        _mm256_unpackhi_epi64(e, g),
        _mm256_unpacklo_epi64(f, h),
        _mm256_unpackhi_epi64(f, h),
    ];
    let mut columns = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        columns[i] = _mm256_permute2x128_si256(upper[i], lower[i], 0x20);
        columns[i + 4] = _mm256_permute2x128_si256(upper[i], lower[i], 0x31);
    }
    columns
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile(k: usize, panel: *const u8, columns: &[*const u8], _: *mut f32, out: *mut f32) {
    // SAFETY: by contract the panel and the three columns are of `k` values, and `out` has 48 floats.
    unsafe {
        let mut x = panel;
        let mut dx = panel.add(ROWS * k);
        let mut y: [*const u8; COLS] = [0, 1, 2].map(|c| *columns.get_unchecked(c));
        let mut scales = y.map(|y| y.add(2 * k).cast::<f32>());
        let mut sums = [[_mm512_setzero_ps(); LANES]; COLS];
        for _ in 0..k / BLOCK {
            let scale = _mm512_loadu_ps(dx.cast());
            let d = scales.map(|dy| _mm512_mul_ps(scale, _mm512_set1_ps(*dy)));
            macro_rules! add_lane {
                ($($lane:literal)*) => { $(
                    let weights = _mm512_loadu_si512(x.add($lane * 64).cast());
                    for c in 0..COLS {
                        add_dot::<{ $lane * 4 }>(weights, y[c], k, d[c], &mut sums[c][$lane]);
                    }
                )* };
            }
            add_lane!(0 1 2 3 4 5 6 7);
            x = x.add(LANES * 64);
            dx = dx.add(ROWS * 4);
            y = y.map(|y| y.add(BLOCK));
            scales = scales.map(|dy| dy.add(1));
        }
        for (c, v) in sums.into_iter().enumerate() {
            let halves = [0, 1, 2, 3].map(|i| _mm512_add_ps(v[i + 4], v[i]));
            let sum = _mm512_add_ps(_mm512_add_ps(halves[0], halves[2]), _mm512_add_ps(halves[1], halves[3]));
            _mm512_storeu_ps(out.add(c * ROWS), sum);
        }
    }
}

/// Adds to `sum` the sixteen rows' `weights` times four activations, which are `OFFSET` bytes into `column`'s block, times
/// the scales `d`. The starts of the sums are `k` bytes after the activations.
///
/// Four instructions in a row, with one register for what is between them: a compiler that spreads them out, as LLVM does
/// for any x86-64, runs out of registers, and the kernel takes a third longer.
///
/// # Safety
/// The CPU has AVX-512 VNNI; four bytes each at `column + OFFSET` and `k` bytes further can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_dot<const OFFSET: usize>(weights: __m512i, column: *const u8, k: usize, d: __m512, sum: &mut __m512) {
    let dot: __m512i;
    // SAFETY: by contract the instructions exist, and what they read can be read.
    unsafe {
        asm!(
            "vpbroadcastd {dot}, dword ptr [{column} + {k} + {offset}]",
            "vpdpbusd {dot}, {weights}, dword ptr [{column} + {offset}]{{1to16}}",
            "vcvtdq2ps {dot}, {dot}",
            "vfmadd231ps {sum}, {d}, {dot}",
            column = in(reg) column, k = in(reg) k, offset = const OFFSET, weights = in(zmm_reg) weights,
            d = in(zmm_reg) d, sum = inout(zmm_reg) *sum, dot = out(zmm_reg) dot,
            options(pure, readonly, nostack),
        );
    }
    let _ = dot; // not a bare `_` above: the type tells LLVM which registers to choose from
}
