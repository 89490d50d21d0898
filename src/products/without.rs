//! What there is where no kernels are: types without values.

use std::fmt;
use std::time::Duration;

/// A kind of product: there are none on this platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {}

impl Kind {
    /// All kinds.
    pub const ALL: &[Self] = &[];
}

impl fmt::Display for Kind {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// What computes a kind of product on this machine.
#[derive(Clone)]
pub enum Choice {}

impl Choice {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match *self {}
    }

    /// The name of the kernel that computes it.
    #[must_use]
    pub fn kernel(&self) -> Option<&'static str> {
        match *self {}
    }

    /// The names of kernels that did not have ggml's bits.
    #[must_use]
    pub fn inexact(&self) -> &[&'static str] {
        match *self {}
    }
}

/// The shape of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Values per row.
    pub k: usize,
    /// Rows of weights.
    pub rows: usize,
    /// Rows of activations.
    pub tokens: usize,
    /// Experts, and how many of them each token is routed to.
    pub experts: (usize, usize),
    /// Whether each of a token's experts has activations of its own.
    pub own_rows: bool,
}

impl Shape {
    /// Multiplications and additions.
    #[must_use]
    pub fn operations(&self, kind: Kind) -> usize {
        match kind {}
    }
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
    /// Results whose bits are not ggml's.
    pub apart: usize,
    /// How long ggml took.
    pub ggml: Duration,
    /// How long the kernel took.
    pub kernel: Duration,
}
