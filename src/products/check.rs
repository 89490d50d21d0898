//! Compares each kernel with ggml on a few small products before it is used.

use super::kernel::Kernel;
use super::kind::Kind;
use super::trial::Trial;
use super::types::{Shape, Values};

/// Small, with rows and columns that no tile divides where the kernel allows it, an expert without tokens and one with a few.
const SHAPES: [Shape; 2] = [
    Shape { k: 256, rows: 20, tokens: 17, experts: (5, 2), own_rows: false },
    Shape { k: 320, rows: 12, tokens: 9, experts: (4, 3), own_rows: true },
];

/// Returns true if the kernel gives ggml's exact bits on this machine.
pub(super) fn is_exact(kind: Kind, kernel: &'static Kernel) -> bool {
    SHAPES.into_iter().all(|shape| {
        let shape = Shape {
            k: shape.k.next_multiple_of(kernel.step),
            rows: shape.rows.next_multiple_of(kernel.row_step),
            tokens: shape.tokens.next_multiple_of(kernel.col_step),
            ..shape
        };
        let Some(mut trial) = Trial::new(kind, kernel, shape, 1) else { return false };
        (0..4).all(|seed| {
            trial.fill(if seed % 2 == 0 { Values::Usual } else { Values::Extreme }, seed);
            trial.run().is_some_and(|outcome| outcome.apart == 0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::Backend;
    use crate::products::kind::Weights;

    /// The kernel that is used for a kind, with one bit of each tile wrong.
    fn one_bit_off(kind: Kind) -> Option<&'static Kernel> {
        unsafe fn off(k: usize, panel: *const u8, columns: &[*const u8], scratch: *mut f32, out: *mut f32) {
            let kernel = Kind::ALL[0].kernel().expect("asked for where there is one");
            // SAFETY: the contract is that kernel's.
            unsafe {
                (kernel.tile)(k, panel, columns, scratch, out);
                *out = f32::from_bits((*out).to_bits() ^ 1);
            }
        }
        let kernel = kind.kernel()?;
        Some(Box::leak(Box::new(Kernel { tile: off, ..*kernel })))
    }

    #[test]
    fn a_kernel_that_is_one_bit_off_is_not_exact() {
        let _ = Backend::init();
        let kind = Kind::ALL[0];
        let Some(kernel) = one_bit_off(kind) else { return };
        assert!(is_exact(kind, kind.kernel().unwrap()));
        assert!(!is_exact(kind, kernel));
    }

    /// ggml multiplies an expert's weights with few rows in another way.
    #[test]
    fn a_kernel_that_computes_experts_with_few_tokens_in_its_order_is_not_exact() {
        let _ = Backend::init();
        let kind = Kind { weights: Weights::Q6K, routed: true };
        let Some(kernel) = kind.kernel() else { return };
        let kernel = Box::leak(Box::new(Kernel { least_columns: 1, ..*kernel }));
        assert!(!is_exact(kind, kernel));
    }

    /// With and without fused multiplications: the values of the check tell them apart.
    #[test]
    fn a_kernel_with_other_roundings_is_not_exact() {
        let _ = Backend::init();
        for &kind in Kind::ALL {
            let of_name = |name: &str| kind.kernels().find(|kernel| kernel.name == name);
            for (fused, apart) in [
                ("BF16 AVX2 fused", "BF16 AVX2"),
                ("Q5_K AVX2", "Q5_K AVX2 apart"),
                ("Q5_K AVX-512 VNNI", "Q5_K AVX-512 VNNI apart"),
            ] {
                if let (Some(fused), Some(apart)) = (of_name(fused), of_name(apart)) {
                    assert!(!(is_exact(kind, fused) && is_exact(kind, apart)));
                }
            }
        }
    }
}
