//! Kernels: how rows of weights and columns of activations are laid out, and how a tile of their products is computed.
//!
//! Each kernel has ggml's bits: it adds the same terms in the same order as ggml's code, for several rows and columns
//! at once. [`check`](super::check) compares them before a kernel is used.
#![allow(
    clippy::wildcard_imports,
    clippy::cast_ptr_alignment,
    clippy::needless_range_loop,
    reason = "intrinsics by the dozen; panels and columns begin on cache lines; tiles are indexed by row and column"
)]

use super::cpu;

mod amx;
mod float;
mod float_512;
mod k_quants;
mod k_quants_512;
mod k_quants_pack;
mod lanes;
mod q8_0;
mod q8_0_512;

/// A kernel for one type of weights and one instruction set.
///
/// # Safety
/// The functions may be called if [`is_available`](Self::is_available) returns true, with pointers to the sizes that
/// each field states.
pub(super) struct Kernel {
    /// Weights, instructions and order, such as `Q8_0 AVX2`.
    pub(super) name: &'static str,
    /// The instruction set that it needs.
    pub(super) instructions: Instructions,
    /// Rows per tile, which a panel holds.
    pub(super) rows: usize,
    /// Columns per tile.
    pub(super) cols: usize,
    /// The number of values per row is a multiple of this.
    pub(super) step: usize,
    /// The number of rows per matrix is a multiple of this: ggml computes others in another order.
    pub(super) row_step: usize,
    /// The number of rows of activations is a multiple of this: ggml computes the rest in another order.
    pub(super) col_step: usize,
    /// The fewest columns per matrix. ggml computes fewer one by one with its `vec_dot`, in another order. If this is not 1,
    /// the kernel's columns have the layout that ggml converts activations to.
    pub(super) least_columns: usize,
    /// Most values per row: ggml is faster with more.
    pub(super) longest_row: usize,
    /// Bytes of a panel of rows of `k` values.
    pub(super) panel_bytes: fn(k: usize) -> usize,
    /// Bytes of a column of `k` values.
    pub(super) column_bytes: fn(k: usize) -> usize,
    /// Number of floats of scratch memory per tile.
    pub(super) scratch: fn(k: usize) -> usize,
    /// Lays out a column of `k` values that ggml has converted to the type it multiplies with. Returns false if the
    /// kernel does not have ggml's bits for them.
    pub(super) prepare: unsafe fn(converted: *const u8, k: usize, column: *mut u8) -> bool,
    /// Converts activations where ggml converts four rows at once; `None` if it converts one at a time.
    pub(super) convert_four: Option<ConvertFour>,
    /// Lays out [`rows`](Self::rows) rows of `k` weights each.
    pub(super) pack: Pack,
    /// Multiplies a panel with [`cols`](Self::cols) columns: `out[c * rows + r]`.
    pub(super) tile: Tile,
}

type Pack = unsafe fn(rows: &[*const u8], k: usize, panel: *mut u8);
type Tile = unsafe fn(k: usize, panel: *const u8, columns: &[*const u8], scratch: *mut f32, out: *mut f32);
/// Converts four rows of `k` activations, which follow one another, by the CPU backend's function, and lays them out.
/// `converted` has room for four rows.
type ConvertFour =
    unsafe fn(ggml: cpu::ConvertFour, rows: *const f32, k: usize, converted: *mut u8, columns: [*mut u8; 4]);

/// The largest tile: rows times columns.
pub(super) const LARGEST_TILE: usize = 256;
/// The most rows, and the most columns, of a tile.
pub(super) const LONGEST_SIDE: usize = 16;

/// Instruction sets of x86.
#[derive(Clone, Copy)]
pub(super) enum Instructions {
    /// AVX2 with FMA and F16C.
    Avx2,
    /// The same, and AVX-VNNI.
    AvxVnni,
    /// AVX-512 with BW and VL.
    Avx512,
    /// The same, and VNNI.
    Avx512Vnni,
    /// AVX-512 with BW and VL, and BF16.
    Avx512Bf16,
}

impl Instructions {
    pub(super) fn has_avx512(self) -> bool {
        matches!(self, Self::Avx512 | Self::Avx512Vnni | Self::Avx512Bf16)
    }
}

impl Kernel {
    /// Returns true if it computes products of `columns` rows of activations with `rows` rows of `k` weights per matrix.
    pub(super) fn fits(&self, k: usize, rows: usize, columns: usize) -> bool {
        k <= self.longest_row
            && k.is_multiple_of(self.step)
            && rows.is_multiple_of(self.row_step)
            && columns.is_multiple_of(self.col_step)
    }

    /// Returns true if this CPU has the kernel's instructions.
    pub(super) fn is_available(&self) -> bool {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        avx2 && match self.instructions {
            Instructions::Avx2 => true,
            Instructions::AvxVnni => is_x86_feature_detected!("avxvnni"),
            Instructions::Avx512 => avx512,
            Instructions::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
            Instructions::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
        }
    }
}

/// `Q8_0`, the fastest first.
pub(super) static Q8_0: &[&Kernel] = &[&q8_0_512::AVX512_VNNI, &q8_0::AVX_VNNI, &q8_0::AVX2];
/// BF16, dense products.
pub(super) static BF16_DENSE: &[&Kernel] = &[&float::BF16_DENSE];
/// F16, dense products.
pub(super) static F16_DENSE: &[&Kernel] = &[&float_512::F16_DENSE];
/// F16, routed products.
pub(super) static F16_ROUTED: &[&Kernel] = &[&float_512::F16_ROUTED, &float::F16_ROUTED];
/// BF16, routed products.
pub(super) static BF16_ROUTED: &[&Kernel] = &[
    &float_512::BF16_PAIRS_ROUTED,
    &float_512::BF16_ROUTED_FUSED,
    &float_512::BF16_ROUTED,
    &float::BF16_ROUTED_FUSED,
    &float::BF16_ROUTED,
];
/// `Q8_0` in ggml's layout for AMX, dense products.
pub(super) static Q8_0_AMX: &[&Kernel] = &[&amx::Q8_0];
/// F16 in ggml's buffers for AMX, dense products.
pub(super) static F16_AMX: &[&Kernel] = &[&amx::F16];
/// `Q4_K` that ggml has repacked, routed products.
pub(super) static Q4_K_REPACKED_ROUTED: &[&Kernel] =
    &[&k_quants_512::Q4_K_REPACKED_ROUTED, &k_quants::Q4_K_REPACKED_ROUTED];
/// The same, dense products.
pub(super) static Q4_K_REPACKED_DENSE: &[&Kernel] =
    &[&k_quants_512::Q4_K_REPACKED_DENSE, &k_quants::Q4_K_REPACKED_DENSE];
/// `Q4_K` as files have it.
pub(super) static Q4_K: &[&Kernel] =
    &[&k_quants_512::Q4_K, &k_quants_512::Q4_K_APART, &k_quants::Q4_K, &k_quants::Q4_K_APART];
/// `Q5_K`.
pub(super) static Q5_K: &[&Kernel] =
    &[&k_quants_512::Q5_K, &k_quants_512::Q5_K_APART, &k_quants::Q5_K, &k_quants::Q5_K_APART];
/// `Q6_K`.
pub(super) static Q6_K: &[&Kernel] =
    &[&k_quants_512::Q6_K, &k_quants_512::Q6_K_APART, &k_quants::Q6_K, &k_quants::Q6_K_APART];

/// Returns the bytes of a row of `k` values of `Q8_0` in ggml's layout for AMX.
pub(super) fn q8_0_amx_row_bytes(k: usize) -> usize {
    k / q8_0::BLOCK * amx::BLOCK_BYTES
}
