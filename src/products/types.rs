//! Inputs and results of a comparison of a kernel with ggml.

use std::time::Duration;

use super::Kind;

/// The shape of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Values per row.
    pub k: usize,
    /// Rows of weights.
    pub rows: usize,
    /// Rows of activations.
    pub tokens: usize,
    /// Experts, and how many of them each token is routed to; ignored for dense products.
    pub experts: (usize, usize),
    /// True if each of a token's experts has separate activations, as in the down projection.
    pub own_rows: bool,
}

/// Range of the random values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Values as in real models.
    Usual,
    /// From subnormal to nearly infinite, many zeros.
    Extreme,
    /// The same, with infinities and NaNs among the activations.
    NotFinite,
}

/// Result of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Total number of results.
    pub results: usize,
    /// Number of results that differ from ggml's in any bit; two NaNs count as equal.
    pub apart: usize,
    /// CPU time of ggml on the calling thread: its whole CPU time with one thread.
    pub ggml: Duration,
    /// The same for the kernel, including its preparation of operands.
    pub kernel: Duration,
}

impl Shape {
    /// Returns true if no size is 0 and tokens are routed to at most all experts.
    #[cfg(products)]
    pub(super) fn is_valid(&self) -> bool {
        let (experts, used) = self.experts;
        self.k > 0 && self.rows > 0 && self.tokens > 0 && (1..=experts).contains(&used)
    }

    /// Returns the number of multiplications and additions.
    #[must_use]
    pub fn operations(&self, kind: Kind) -> usize {
        2 * self.k * self.rows * self.tokens * if kind.is_routed() { self.experts.1 } else { 1 }
    }
}
