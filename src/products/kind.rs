//! Kinds of products and the kernel chosen for each.

use std::fmt;
use std::sync::OnceLock;

use llama_cpp_sys_2 as sys;

use super::check;
use super::kernel::{self, Kernel};

/// A kind of product: the type of its weights, and whether it is routed to experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub(super) weights: Weights,
    /// True for `MUL_MAT_ID`: each row of activations is multiplied with the experts it is routed to.
    pub(super) routed: bool,
}

/// Types of weights with kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    Q8_0,
    F16,
    Bf16,
    Q4K,
    /// `Q4_K` that ggml has repacked when it loaded the model.
    Q4KRepacked,
    Q5K,
    Q6K,
}

impl Weights {
    pub(super) fn of(type_: sys::ggml_type, repacked: bool) -> Option<Self> {
        match (type_, repacked) {
            (sys::GGML_TYPE_Q8_0, false) => Some(Self::Q8_0),
            (sys::GGML_TYPE_F16, false) => Some(Self::F16),
            (sys::GGML_TYPE_BF16, false) => Some(Self::Bf16),
            (sys::GGML_TYPE_Q4_K, false) => Some(Self::Q4K),
            (sys::GGML_TYPE_Q4_K, true) => Some(Self::Q4KRepacked),
            (sys::GGML_TYPE_Q5_K, false) => Some(Self::Q5K),
            (sys::GGML_TYPE_Q6_K, false) => Some(Self::Q6K),
            _ => None,
        }
    }

    pub(super) fn type_(self) -> sys::ggml_type {
        match self {
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::Bf16 => sys::GGML_TYPE_BF16,
            Self::Q4K | Self::Q4KRepacked => sys::GGML_TYPE_Q4_K,
            Self::Q5K => sys::GGML_TYPE_Q5_K,
            Self::Q6K => sys::GGML_TYPE_Q6_K,
        }
    }
}

impl Kind {
    /// All kinds that have kernels.
    pub const ALL: &[Self] = &[
        Self { weights: Weights::Q8_0, routed: true },
        Self { weights: Weights::Q8_0, routed: false },
        Self { weights: Weights::F16, routed: true },
        Self { weights: Weights::F16, routed: false },
        Self { weights: Weights::Bf16, routed: true },
        Self { weights: Weights::Bf16, routed: false },
        Self { weights: Weights::Q4KRepacked, routed: true },
        Self { weights: Weights::Q4KRepacked, routed: false },
        Self { weights: Weights::Q4K, routed: true },
        Self { weights: Weights::Q4K, routed: false },
        Self { weights: Weights::Q5K, routed: true },
        Self { weights: Weights::Q5K, routed: false },
        Self { weights: Weights::Q6K, routed: true },
        Self { weights: Weights::Q6K, routed: false },
    ];

    pub(super) fn is_routed(self) -> bool {
        self.routed
    }

    /// Returns the kernels for this kind that this CPU can run, the fastest first.
    pub(super) fn kernels(self) -> impl Iterator<Item = &'static Kernel> {
        let kernels = match (self.weights, self.routed) {
            (Weights::Q8_0, _) => kernel::Q8_0,
            (Weights::F16, true) => kernel::F16_ROUTED,
            (Weights::F16, false) => kernel::F16_DENSE,
            (Weights::Bf16, true) => kernel::BF16_ROUTED,
            (Weights::Bf16, false) => kernel::BF16_DENSE,
            (Weights::Q4KRepacked, true) => kernel::Q4_K_REPACKED_ROUTED,
            (Weights::Q4KRepacked, false) => kernel::Q4_K_REPACKED_DENSE,
            (Weights::Q4K, _) => kernel::Q4_K,
            (Weights::Q5K, _) => kernel::Q5_K,
            (Weights::Q6K, _) => kernel::Q6_K,
        };
        kernels.iter().copied().filter(|kernel| kernel.is_available())
    }

    /// Returns the kernel for this kind, if one gives ggml's exact bits on this machine.
    pub(super) fn kernel(self) -> Option<&'static Kernel> {
        choices().iter().find(|choice| choice.kind == self)?.kernel
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = match self.weights {
            Weights::Q8_0 => "Q8_0",
            Weights::F16 => "F16",
            Weights::Bf16 => "BF16",
            Weights::Q4K => "Q4_K",
            Weights::Q4KRepacked => "Q4_K repacked",
            Weights::Q5K => "Q5_K",
            Weights::Q6K => "Q6_K",
        };
        write!(f, "{weights} {}", if self.routed { "MUL_MAT_ID" } else { "MUL_MAT" })
    }
}

/// The kernel chosen for a kind of product on this machine, or ggml.
#[derive(Clone)]
pub struct Choice {
    pub(super) kind: Kind,
    pub(super) kernel: Option<&'static Kernel>,
    pub(super) inexact: Vec<&'static str>,
}

impl Choice {
    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the name of the kernel that computes it, or `None` for ggml.
    #[must_use]
    pub fn kernel(&self) -> Option<&'static str> {
        self.kernel.map(|kernel| kernel.name)
    }

    /// Returns the names of the kernels that this CPU can run but that did not have ggml's bits.
    #[must_use]
    pub fn inexact(&self) -> &[&'static str] {
        &self.inexact
    }
}

/// Returns the choice per kind. The first call makes it, by comparing small products with ggml's.
pub(super) fn choices() -> &'static [Choice] {
    static CHOICES: OnceLock<Vec<Choice>> = OnceLock::new();
    CHOICES.get_or_init(|| Kind::ALL.iter().map(|&kind| choose(kind)).collect())
}

fn choose(kind: Kind) -> Choice {
    let mut inexact = Vec::new();
    for kernel in kind.kernels() {
        if check::is_exact(kind, kernel) {
            return Choice { kind, kernel: Some(kernel), inexact };
        }
        inexact.push(kernel.name);
    }
    Choice { kind, kernel: None, inexact }
}
