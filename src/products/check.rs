//! Exact or not used: before a kernel computes anything, a few small products of its kind are computed by ggml too.

use super::kernel::Kernel;
use super::kind::Kind;
use super::trial::{Shape, Trial, Values};

/// Small, with rows and columns that no tile divides, an expert without tokens and one with a few.
const SHAPES: [Shape; 2] = [
    Shape { k: 256, rows: 20, tokens: 17, experts: (5, 2), own_rows: false },
    Shape { k: 320, rows: 12, tokens: 9, experts: (4, 3), own_rows: true },
];

/// Whether the kernel has ggml's bits on this machine.
pub(super) fn is_exact(kind: Kind, kernel: &'static Kernel) -> bool {
    SHAPES.into_iter().all(|shape| {
        let Some(mut trial) = Trial::new(kind, kernel, shape, 1) else { return false };
        (0..6).all(|seed| {
            trial.fill(if seed % 2 == 0 { Values::Usual } else { Values::Extreme }, seed);
            trial.run().is_some_and(|outcome| outcome.apart == 0)
        })
    })
}
