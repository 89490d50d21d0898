//! `Q8_0` weights with `Q8_0` activations, with the bits of ggml's `ggml_vec_dot_q8_0_q8_0` on x86.
//!
//! ggml keeps eight f32 lanes per dot product. Per block of 32, lane `i` takes the exact integer sum of the products
//! `4i` to `4i + 3`, converted to f32, in one fused multiply-add with the f32 product of the two scales. At the end the
//! lanes are added in a fixed order. The kernels below do the same for a tile of rows and columns at once.
//!
//! A panel holds the quantized values of its rows, block by block, then their scales as f32, block by block. A column
//! holds its quantized values, then its scales as f32. The layout of the values within a block is the kernel's.

use std::arch::asm;
use std::arch::x86_64::*;

use super::lanes::sum_of_four;
use super::{Instructions, Kernel};

/// Values per block.
pub(super) const BLOCK: usize = 32;
/// Bytes per block in ggml's layout: an f16 scale, then the values.
pub(super) const BLOCK_BYTES: usize = 34;

/// AVX2: values are widened to 16 bits when they are laid out. Then two multiplications and an addition give the sums of
/// four, without the two instructions per product and row that ggml needs for signs.
pub(super) const AVX2: Kernel = Kernel {
    name: "Q8_0 AVX2",
    instructions: Instructions::Avx2,
    rows: 4,
    cols: 2,
    step: BLOCK,
    row_step: 1,
    col_step: 1,
    least_columns: 1,
    longest_row: usize::MAX,
    convert_four: None,
    panel_bytes: |k| 4 * (2 * k + k / BLOCK * 4),
    column_bytes: |k| 2 * k + k / BLOCK * 4,
    scratch: |_| 0,
    prepare: prepare_avx2,
    pack: pack_avx2,
    tile: tile_avx2,
};

/// AVX-VNNI, which takes weights without a sign: they have 128 added, and each sum starts with -128 times the
/// activations'.
pub(super) const AVX_VNNI: Kernel = Kernel {
    name: "Q8_0 AVX-VNNI",
    instructions: Instructions::AvxVnni,
    panel_bytes: |k| 4 * (k + k / BLOCK * 4),
    scratch: |k| k / BLOCK * 8,
    prepare: prepare_vnni,
    pack: pack_vnni,
    tile: tile_vnni,
    ..AVX2
};

/// The scale that a block begins with.
#[inline]
#[target_feature(enable = "f16c")]
pub(super) unsafe fn scale(block: *const u8) -> f32 {
    // SAFETY: by contract of the callers a block starts here.
    let bits = unsafe { block.cast::<u16>().read_unaligned() };
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// Widens a block: of each four values, the first two as 16-bit numbers in one vector, and the last two in the other.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen(values: __m256i) -> [__m256i; 2] {
    const ZERO: i8 = -128;
    // Each value goes to the upper byte of its number, from where the shift extends its sign.
    let pairs = |first: i8| {
        let of_four = |i: i8| i32::from_le_bytes([ZERO, 4 * i + first, ZERO, 4 * i + first + 1].map(|byte| byte as u8));
        let order = _mm_setr_epi32(of_four(0), of_four(1), of_four(2), of_four(3));
        _mm256_srai_epi16(_mm256_shuffle_epi8(values, _mm256_broadcastsi128_si256(order)), 8)
    };
    [pairs(0), pairs(2)]
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn prepare_avx2(quantized: *const u8, k: usize, column: *mut u8) -> bool {
    let blocks = k / BLOCK;
    let mut lowest = false;
    // SAFETY: by contract `quantized` holds `blocks` blocks and `column` has room for their values and scales.
    unsafe {
        let scales = column.add(2 * k).cast::<f32>();
        for b in 0..blocks {
            let block = quantized.add(b * BLOCK_BYTES);
            let values = _mm256_loadu_si256(block.add(2).cast());
            lowest |= has_lowest(values);
            let [first, last] = widen(values);
            _mm256_storeu_si256(column.add(2 * b * BLOCK).cast(), first);
            _mm256_storeu_si256(column.add((2 * b + 1) * BLOCK).cast(), last);
            *scales.add(b) = scale(block);
        }
    }
    !lowest
}

/// Returns true if a value is -128, which only non-finite activations produce. ggml's sign instruction takes it for
/// its own negative; a kernel that multiplies exactly has other bits then.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn has_lowest(values: __m256i) -> bool {
    _mm256_movemask_epi8(_mm256_cmpeq_epi8(values, _mm256_set1_epi8(i8::MIN))) != 0
}

/// Defines a kernel's `prepare` for weights that have 128 added: values, the start of each sum, scales. `$dpbusd`
/// multiplies, in the encoding of the instructions `$features`.
macro_rules! prepare_with_starts {
    ($name:ident, $features:literal, $dpbusd:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(quantized: *const u8, k: usize, column: *mut u8) -> bool {
            let blocks = k / BLOCK;
            let mut lowest = false;
            // SAFETY: by contract `quantized` holds `blocks` blocks, and `column` has room for their values, starts and
            // scales.
            unsafe {
                let starts = column.add(k).cast::<i32>();
                let scales = column.add(2 * k).cast::<f32>();
                for b in 0..blocks {
                    let block = quantized.add(b * BLOCK_BYTES);
                    let values = _mm256_loadu_si256(block.add(2).cast());
                    lowest |= has_lowest(values);
                    _mm256_storeu_si256(column.add(b * BLOCK).cast(), values);
                    let sums = $dpbusd(_mm256_setzero_si256(), _mm256_set1_epi8(1), values);
                    let start = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sums, 7));
                    _mm256_storeu_si256(starts.add(b * 8).cast(), start);
                    *scales.add(b) = scale(block);
                }
            }
            !lowest
        }
    };
}
pub(super) use prepare_with_starts;

prepare_with_starts!(prepare_vnni, "avx2,f16c,avxvnni", _mm256_dpbusd_avx_epi32);

#[target_feature(enable = "avx2,f16c")]
unsafe fn pack_avx2(rows: &[*const u8], k: usize, panel: *mut u8) {
    let blocks = k / BLOCK;
    // SAFETY: by contract there are four rows of `blocks` blocks, and `panel` has room for their values and scales.
    unsafe {
        let scales = panel.add(8 * k).cast::<f32>();
        for b in 0..blocks {
            for r in 0..4 {
                let block = rows.get_unchecked(r).add(b * BLOCK_BYTES);
                let [first, last] = widen(_mm256_loadu_si256(block.add(2).cast()));
                let to = panel.add((b * 4 + r) * 2 * BLOCK);
                _mm256_storeu_si256(to.cast(), first);
                _mm256_storeu_si256(to.add(BLOCK).cast(), last);
                *scales.add(b * 4 + r) = scale(block);
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn pack_vnni(rows: &[*const u8], k: usize, panel: *mut u8) {
    let flip = _mm256_set1_epi8(i8::MIN);
    let blocks = k / BLOCK;
    // SAFETY: by contract there are four rows of `blocks` blocks, and `panel` has room for their values and scales.
    unsafe {
        let scales = panel.add(4 * k).cast::<f32>();
        for b in 0..blocks {
            for r in 0..4 {
                let block = rows.get_unchecked(r).add(b * BLOCK_BYTES);
                let values = _mm256_xor_si256(_mm256_loadu_si256(block.add(2).cast()), flip);
                _mm256_storeu_si256(panel.add((b * 4 + r) * BLOCK).cast(), values);
                *scales.add(b * 4 + r) = scale(block);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2(k: usize, panel: *const u8, columns: &[*const u8], _scratch: *mut f32, out: *mut f32) {
    // SAFETY: by contract the panel and the two columns are of `k` values, and `out` has 8 floats.
    unsafe {
        let y = [*columns.get_unchecked(0), *columns.get_unchecked(1)];
        let row_scales = panel.add(8 * k).cast::<f32>();
        let column_scales = y.map(|y| y.add(2 * k).cast::<f32>());
        let mut sums = [[_mm256_setzero_ps(); 4]; 2];
        for b in 0..k / BLOCK {
            let y = y.map(|y| y.add(2 * b * BLOCK));
            let rows = _mm256_broadcast_ps(&*row_scales.add(4 * b).cast());
            let scales = column_scales.map(|scale| _mm256_mul_ps(rows, _mm256_broadcast_ss(&*scale.add(b))));
            macro_rules! add_row {
                ($($r:literal)*) => { $(
                    let x = panel.add((b * 4 + $r) * 2 * BLOCK);
                    let mut of_row = [sums[0][$r], sums[1][$r]];
                    add_dots::<{ 0b01_01_01_01 * $r }>(x, y, scales, &mut of_row);
                    [sums[0][$r], sums[1][$r]] = of_row;
                )* };
            }
            add_row!(0 1 2 3);
        }
        _mm_storeu_ps(out, sum_of_four(sums[0]));
        _mm_storeu_ps(out.add(4), sum_of_four(sums[1]));
    }
}

/// Adds to a row's two sums its block's products with two columns' blocks, times one of four scales per column: `SCALE` has
/// its number four times.
///
/// In assembler: the tile needs 14 of 16 registers, and LLVM, where it compiles for any x86-64, orders the instructions so that
/// it needs more.
///
/// # Safety
/// The CPU has AVX2 and FMA; 64 bytes each can be read at `x` and at both `y`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_dots<const SCALE: i32>(x: *const u8, y: [*const u8; 2], scales: [__m256; 2], sums: &mut [__m256; 2]) {
    let (first, last, dot, more): (__m256i, __m256i, __m256i, __m256i);
    // SAFETY: by contract the instructions exist, and what they read can be read.
    unsafe {
        asm!(
            "vmovdqu {first}, [{x}]",
            "vmovdqu {last}, [{x} + 32]",
            "vpmaddwd {dot}, {first}, [{y}]",
            "vpmaddwd {more}, {last}, [{y} + 32]",
            "vpaddd {dot}, {dot}, {more}",
            "vcvtdq2ps {dot}, {dot}",
            "vshufps {more}, {d}, {d}, {scale}",
            "vfmadd231ps {a}, {more}, {dot}",
            "vpmaddwd {dot}, {first}, [{z}]",
            "vpmaddwd {more}, {last}, [{z} + 32]",
            "vpaddd {dot}, {dot}, {more}",
            "vcvtdq2ps {dot}, {dot}",
            "vshufps {more}, {e}, {e}, {scale}",
            "vfmadd231ps {b}, {more}, {dot}",
            x = in(reg) x, y = in(reg) y[0], z = in(reg) y[1], scale = const SCALE,
            d = in(ymm_reg) scales[0], e = in(ymm_reg) scales[1],
            a = inout(ymm_reg) sums[0], b = inout(ymm_reg) sums[1],
            first = out(ymm_reg) first, last = out(ymm_reg) last, dot = out(ymm_reg) dot, more = out(ymm_reg) more,
            options(pure, readonly, nostack),
        );
    }
    let _ = (first, last, dot, more); // not a bare `_` above: the types tell LLVM which registers to choose from
}

/// The products of the scales of four rows and two columns, block by block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply_scales(blocks: usize, dx: *const f32, d: [*const f32; 2], to: *mut f32) {
    // SAFETY: by contract there are four scales per block of the rows, one per block of each column, and room for
    // eight.
    unsafe {
        for b in 0..blocks {
            let dx = _mm_loadu_ps(dx.add(b * 4));
            _mm_storeu_ps(to.add(b * 8), _mm_mul_ps(dx, _mm_broadcast_ss(&*d[0].add(b))));
            _mm_storeu_ps(to.add(b * 8 + 4), _mm_mul_ps(dx, _mm_broadcast_ss(&*d[1].add(b))));
        }
    }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn tile_vnni(k: usize, panel: *const u8, columns: &[*const u8], scratch: *mut f32, out: *mut f32) {
    let blocks = k / BLOCK;
    // SAFETY: by contract the panel and the two columns are of `k` values, `scratch` has 8 floats per block, `out` has
    // 8.
    unsafe {
        let y = [*columns.get_unchecked(0), *columns.get_unchecked(1)];
        multiply_scales(blocks, panel.add(4 * k).cast(), y.map(|y| y.add(2 * k).cast()), scratch);
        let mut sums = [[_mm256_setzero_ps(); 4]; 2];
        let (mut x, mut d) = (panel, scratch.cast_const());
        for b in 0..blocks {
            let values = y.map(|y| _mm256_loadu_si256(y.add(b * BLOCK).cast()));
            let starts = y.map(|y| _mm256_loadu_si256(y.add(k + b * BLOCK).cast()));
            for r in 0..4 {
                let x = _mm256_loadu_si256(x.add(r * BLOCK).cast());
                for c in 0..2 {
                    let sum = _mm256_cvtepi32_ps(_mm256_dpbusd_avx_epi32(starts[c], x, values[c]));
                    sums[c][r] = _mm256_fmadd_ps(_mm256_broadcast_ss(&*d.add(c * 4 + r)), sum, sums[c][r]);
                }
            }
            x = x.add(4 * BLOCK);
            d = d.add(8);
        }
        _mm_storeu_ps(out, sum_of_four(sums[0]));
        _mm_storeu_ps(out.add(4), sum_of_four(sums[1]));
    }
}
