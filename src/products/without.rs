//! Uninhabited types for platforms without kernels.

use std::fmt;

/// A kind of product: there are none on this platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {}

impl Kind {
    /// All kinds.
    pub const ALL: &[Self] = &[];

    pub(super) fn is_routed(self) -> bool {
        match self {}
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// The kernel chosen for a kind of product on this machine, or ggml.
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
