//! Weights in ggml's buffers for AMX, whose products ggml adds in another order than those of other weights.
//!
//! `Q8_0`: per block of 32 the sum of the integer products is exact, and is added to one f32 in one fused multiply-add with the
//! f32 product of the two scales. AMX multiplies a block of sixteen rows with one of sixteen columns at a time. ggml does the
//! same, but keeps the 256 sums in memory. Here they stay in registers, and the products of the next two blocks are computed
//! meanwhile.
//!
//! ggml lays sixteen rows out together: per block eight vectors of four values of each row, sixteen f16 scales, and sixteen
//! i32, which a panel has no use for. A panel holds the values, then the scales as f32, block by block. A column holds its
//! values, then its scales as f32.
//!
//! F16: a fused multiply-add per value, of f32 activations, in sixteen lanes, which are added at the end.

use std::arch::asm;
use std::arch::x86_64::*;

use super::float_512::F16_DENSE;
use super::q8_0::{self, BLOCK, scale};
use super::{Instructions, Kernel};

/// Rows, and columns, of a tile.
const SIDE: usize = 16;
/// Bytes of a block of sixteen rows' values.
const WEIGHTS: usize = SIDE * BLOCK;
/// Bytes of the products of such a block with one of sixteen columns: 256 i32.
const PRODUCTS: usize = SIDE * SIDE * 4;
/// Bytes of a block of one row.
pub(super) const BLOCK_BYTES: usize = q8_0::BLOCK_BYTES + 4;

/// `Q8_0`.
pub(super) const Q8_0: Kernel = Kernel {
    name: "Q8_0 AMX",
    instructions: Instructions::Avx512Vnni, // a CPU with AMX has them, and without AMX there are no such weights
    rows: SIDE,
    cols: SIDE,
    step: 2 * BLOCK, // ggml adds a single block to what the result had before
    row_step: 2 * SIDE,
    col_step: 1,
    least_columns: 1,
    longest_row: usize::MAX,
    convert_four: None,
    panel_bytes: |k| SIDE * (k + k / BLOCK * 4),
    column_bytes,
    scratch: |k| (4 * PRODUCTS + SIDE * column_bytes(k)) / 4,
    prepare,
    pack,
    tile,
};

/// F16. ggml computes rows in sixes, fours and twos, and their number is a multiple of 32.
pub(super) const F16: Kernel =
    Kernel { name: "F16 with f32 activations, AVX-512", row_step: 2 * SIDE, prepare: copy, ..F16_DENSE };

fn column_bytes(k: usize) -> usize {
    k + k / BLOCK * 4
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn prepare(quantized: *const u8, k: usize, column: *mut u8) -> bool {
    // SAFETY: by contract `quantized` holds `k / BLOCK` blocks, and `column` has room for their values and scales.
    unsafe {
        for b in 0..k / BLOCK {
            let block = quantized.add(b * q8_0::BLOCK_BYTES);
            _mm256_storeu_si256(column.add(b * BLOCK).cast(), _mm256_loadu_si256(block.add(2).cast()));
            column.add(k + b * 4).cast::<f32>().write(scale(block));
        }
    }
    true
}

/// A configuration of AMX's tiles.
#[repr(C, align(64))]
struct Tiles {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// ggml's, byte for byte: it sets its own once per thread, and takes it for granted afterwards.
static TILES: Tiles = Tiles {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 32, 32, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [8, 8, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack(rows: &[*const u8], k: usize, panel: *mut u8) {
    let first = rows[0];
    // SAFETY: by contract the first of sixteen rows is where ggml's blocks of all sixteen are, and `panel` has room for their
    // values and scales. A thread multiplies panels only after it has laid them out, so it has a configuration. There are such
    // weights only where the system lets this process use AMX.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const TILES, options(nostack, preserves_flags));
        let scales = panel.add(SIDE * k).cast::<f32>();
        for b in 0..k / BLOCK {
            let block = first.add(b * SIDE * BLOCK_BYTES);
            std::ptr::copy_nonoverlapping(block, panel.add(b * WEIGHTS), WEIGHTS);
            let halves = _mm256_loadu_si256(block.add(WEIGHTS).cast());
            _mm512_storeu_ps(scales.add(b * SIDE), _mm512_cvtph_ps(halves));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile(k: usize, panel: *const u8, columns: &[*const u8], scratch: *mut f32, out: *mut f32) {
    // SAFETY: by contract the panel and the sixteen columns are of `k` values, `scratch` begins on a cache line and has room
    // for the products of four blocks and for sixteen columns, and `out` has 256 floats. pack() has configured the tiles.
    unsafe {
        let products = scratch.cast::<u8>();
        let (columns, stride) = evenly_spaced(columns, column_bytes(k), products.add(4 * PRODUCTS));
        let column_scales = columns.add(k);
        let scales = panel.add(SIDE * k).cast::<f32>();
        let pairs = k / (2 * BLOCK);
        let mut sums = [_mm512_setzero_ps(); SIDE];
        multiply(panel, columns, stride, products);
        for pair in 0..pairs {
            if pair + 1 < pairs {
                let to = products.add((pair + 1) % 2 * 2 * PRODUCTS);
                multiply(panel.add((pair + 1) * 2 * WEIGHTS), columns.add((pair + 1) * 2 * BLOCK), stride, to);
            }
            for b in 0..2 {
                let scale = _mm512_loadu_ps(scales.add((2 * pair + b) * SIDE));
                let from = products.add((pair % 2 * 2 + b) * PRODUCTS).cast::<i32>();
                for c in 0..SIDE {
                    let column = *column_scales.add(c * stride + (2 * pair + b) * 4).cast::<f32>();
                    let d = _mm512_mul_ps(scale, _mm512_set1_ps(column));
                    let product = _mm512_cvtepi32_ps(_mm512_load_si512(from.add(c * SIDE).cast()));
                    sums[c] = _mm512_fmadd_ps(product, d, sums[c]);
                }
            }
        }
        for (c, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(out.add(c * SIDE), sum);
        }
    }
}

/// The columns with the same distance from each to the next, and that distance: where they are if it is the same already, as it
/// is unless the last ones are too few for a tile, or else in `copies`.
///
/// # Safety
/// There are sixteen columns of `bytes`, and `copies` has room for them.
unsafe fn evenly_spaced(columns: &[*const u8], bytes: usize, copies: *mut u8) -> (*const u8, usize) {
    let first = columns[0];
    let stride = columns[1].addr().wrapping_sub(first.addr());
    let even = (0..SIDE).all(|c| columns[c].addr() == first.addr().wrapping_add(c.wrapping_mul(stride)));
    if even {
        return (first, stride);
    }
    for (c, &column) in columns.iter().enumerate() {
        // SAFETY: our own contract.
        unsafe { std::ptr::copy_nonoverlapping(column, copies.add(c * bytes), bytes) };
    }
    (copies, bytes)
}

/// Multiplies two blocks of sixteen rows with two of sixteen columns, which are `stride` bytes apart, each with one.
///
/// # Safety
/// The CPU has AMX, and this thread has configured its tiles; the blocks can be read, and 512 i32 written.
#[inline]
unsafe fn multiply(weights: *const u8, columns: *const u8, stride: usize, products: *mut u8) {
    // SAFETY: by contract. LLVM gives no tile to anything else.
    unsafe {
        asm!(
            "tileloadd tmm0, [{weights} + {row}]",
            "tileloadd tmm2, [{columns} + {stride}]",
            "tilezero tmm4",
            "tdpbssd tmm4, tmm2, tmm0",
            "tileloadd tmm1, [{weights} + {row} + {next_weights}]",
            "tileloadd tmm3, [{columns} + {stride} + {next_columns}]",
            "tilezero tmm5",
            "tdpbssd tmm5, tmm3, tmm1",
            "tilestored [{products} + {row}], tmm4",
            "tilestored [{products} + {row} + {next_products}], tmm5",
            weights = in(reg) weights, columns = in(reg) columns, stride = in(reg) stride, products = in(reg) products,
            row = in(reg) 64_usize, next_weights = const WEIGHTS, next_columns = const BLOCK, next_products = const PRODUCTS,
            options(nostack, preserves_flags),
        );
    }
}

/// Activations that ggml leaves as they are.
unsafe fn copy(row: *const u8, k: usize, column: *mut u8) -> bool {
    // SAFETY: by contract there are `k` floats, and room for as many.
    unsafe { std::ptr::copy_nonoverlapping(row, column, 4 * k) };
    true
}
