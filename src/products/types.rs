//! What a comparison of a kernel with ggml is given, and what it finds.

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
    /// Whether each of a token's experts has activations of its own, as the second product of a feed-forward network has.
    pub own_rows: bool,
}

/// What values there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Such as models have.
    Usual,
    /// From subnormal to nearly infinite, many zeros.
    Extreme,
    /// The same, with infinities and what is no number among the activations.
    NotFinite,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Results in all.
    pub results: usize,
    /// Results whose bits are not ggml's; two that are no numbers count as the same.
    pub apart: usize,
    /// CPU time that ggml took on the calling thread: all of it where that is the only one.
    pub ggml: Duration,
    /// The same of the kernel, with all that it prepares.
    pub kernel: Duration,
}

impl Shape {
    /// Multiplications and additions.
    #[must_use]
    pub fn operations(&self, kind: Kind) -> usize {
        2 * self.k * self.rows * self.tokens * if kind.is_routed() { self.experts.1 } else { 1 }
    }
}
