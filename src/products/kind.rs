//! Kinds of products and the kernel chosen for each.

use std::fmt;
use std::sync::OnceLock;

use llama_cpp_sys_2 as sys;

use super::kernel::{self, Kernel};
use super::{check, cpu};
use crate::llama::BufferType;

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
    /// `Q8_0` that ggml has laid out for AMX when it loaded the model.
    Q8_0Amx,
    F16,
    /// F16 in ggml's buffers for AMX, in the layout of the file: it multiplies them with f32 activations.
    F16Amx,
    Bf16,
    Q4K,
    /// `Q4_K` that ggml has repacked when it loaded the model.
    Q4KRepacked,
    Q5K,
    Q6K,
}

impl Weights {
    pub(super) fn of(type_: sys::ggml_type, place: Place) -> Option<Self> {
        match (type_, place) {
            (sys::GGML_TYPE_Q8_0, Place::Memory) => Some(Self::Q8_0),
            (sys::GGML_TYPE_Q8_0, Place::Amx) => Some(Self::Q8_0Amx),
            (sys::GGML_TYPE_F16, Place::Memory) => Some(Self::F16),
            (sys::GGML_TYPE_F16, Place::Amx) => Some(Self::F16Amx),
            (sys::GGML_TYPE_BF16, Place::Memory) => Some(Self::Bf16),
            (sys::GGML_TYPE_Q4_K, Place::Memory) => Some(Self::Q4K),
            (sys::GGML_TYPE_Q4_K, Place::Repacked) => Some(Self::Q4KRepacked),
            (sys::GGML_TYPE_Q5_K, Place::Memory) => Some(Self::Q5K),
            (sys::GGML_TYPE_Q6_K, Place::Memory) => Some(Self::Q6K),
            _ => None,
        }
    }

    /// Where they are.
    pub(super) fn place(self) -> Place {
        match self {
            Self::Q8_0Amx | Self::F16Amx => Place::Amx,
            Self::Q4KRepacked => Place::Repacked,
            Self::Q8_0 | Self::F16 | Self::Bf16 | Self::Q4K | Self::Q5K | Self::Q6K => Place::Memory,
        }
    }

    /// The type that ggml converts activations to.
    pub(super) fn activations(self) -> Option<sys::ggml_type> {
        if self == Self::F16Amx {
            return Some(sys::GGML_TYPE_F32);
        }
        cpu::traits(self.type_()).map(|traits| traits.vec_dot_type)
    }

    /// The bytes of a row of `k` weights that has `in_file` of them in a file.
    pub(super) fn row_bytes(self, k: usize, in_file: usize) -> usize {
        if self == Self::Q8_0Amx { kernel::q8_0_amx_row_bytes(k) } else { in_file }
    }

    pub(super) fn type_(self) -> sys::ggml_type {
        match self {
            Self::Q8_0 | Self::Q8_0Amx => sys::GGML_TYPE_Q8_0,
            Self::F16 | Self::F16Amx => sys::GGML_TYPE_F16,
            Self::Bf16 => sys::GGML_TYPE_BF16,
            Self::Q4K | Self::Q4KRepacked => sys::GGML_TYPE_Q4_K,
            Self::Q5K => sys::GGML_TYPE_Q5_K,
            Self::Q6K => sys::GGML_TYPE_Q6_K,
        }
    }
}

/// Where weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Host memory, as the file has them.
    Memory,
    /// ggml's buffers of repacked weights.
    Repacked,
    /// ggml's buffers of weights for AMX.
    Amx,
}

impl Place {
    /// The place of weights in buffers of a type.
    pub(super) fn of(type_: sys::ggml_backend_buffer_type_t) -> Self {
        let is_of = |place: &Self| place.buffer_type().is_some_and(|buffers| buffers.as_ptr() == type_);
        let found = [Self::Repacked, Self::Amx].into_iter().find(is_of);
        found.unwrap_or(Self::Memory)
    }

    /// The type of its buffers, if they are not plain memory and ggml's CPU backend has them.
    pub(super) fn buffer_type(self) -> Option<BufferType> {
        match self {
            Self::Memory => None,
            Self::Repacked => cpu::repacked(),
            Self::Amx => cpu::amx(),
        }
    }
}

impl Kind {
    /// All kinds that have kernels.
    pub const ALL: &[Self] = &[
        Self { weights: Weights::Q8_0, routed: true },
        Self { weights: Weights::Q8_0, routed: false },
        Self { weights: Weights::Q8_0Amx, routed: false },
        Self { weights: Weights::F16, routed: true },
        Self { weights: Weights::F16, routed: false },
        Self { weights: Weights::F16Amx, routed: false },
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

    /// Returns true if ggml's CPU backend has a place for the weights on this machine.
    fn exists(self) -> bool {
        let place = self.weights.place();
        place == Place::Memory || place.buffer_type().is_some()
    }

    /// Returns the kernels for this kind that this CPU can run, the fastest first.
    pub(super) fn kernels(self) -> impl Iterator<Item = &'static Kernel> {
        let kernels = match (self.weights, self.routed) {
            (Weights::Q8_0, _) => kernel::Q8_0,
            (Weights::Q8_0Amx, _) => kernel::Q8_0_AMX,
            (Weights::F16Amx, _) => kernel::F16_AMX,
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
        let exists = self.exists();
        kernels.iter().copied().filter(move |kernel| exists && kernel.is_available())
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
            Weights::Q8_0Amx => "Q8_0 for AMX",
            Weights::F16 => "F16",
            Weights::F16Amx => "F16 for AMX",
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
    CHOICES.get_or_init(|| Kind::ALL.iter().filter(|kind| kind.exists()).map(|&kind| choose(kind)).collect())
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
