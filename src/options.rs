//! Choices of how a model is loaded and evaluated, which need no llama.cpp to be named.

/// How many layers go to devices other than the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As many as llama.cpp thinks fit.
    #[default]
    Auto,
    /// All of them.
    All,
    /// This many.
    Count(u32),
}

/// How a model is spread over several devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitMode {
    /// Not: one device holds it.
    None,
    /// Whole layers, with their part of the cache.
    #[default]
    Layer,
    /// Rows of matrices.
    Row,
    /// Matrices and cache.
    Tensor,
}

/// How weights get from the file into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// Mapped, unless a device cannot.
    #[default]
    Auto,
    /// Read.
    Read,
    /// Mapped.
    Map,
    /// Read and kept from being swapped out.
    Lock,
    /// Mapped and kept from being swapped out.
    MapAndLock,
    /// Read past the system's cache.
    Direct,
}

/// Whether rows of big tables are read from the file as they are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LazyMode {
    /// Of tables above 4 GiB.
    #[default]
    Auto,
    /// Of all.
    On,
    /// Of none.
    Off,
}

/// A value that takes the place of one in the model's file.
#[derive(Debug, Clone, PartialEq)]
pub enum OverrideValue {
    /// Any integer type.
    Int(i64),
    /// Any float type.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A text of up to 127 bytes.
    Text(String),
}

/// The type of the values in the key/value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "ggml's names")]
pub enum CacheType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Iq4Nl,
    Q5_0,
    Q5_1,
}

/// How rotary positions are stretched to a longer context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeScaling {
    /// Not.
    None,
    /// All frequencies alike.
    Linear,
    /// `YaRN`, <https://arxiv.org/abs/2309.00071>.
    Yarn,
}

/// Rotary positions; `None` for what the model's file says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rope {
    /// How they are stretched.
    pub scaling: Option<RopeScaling>,
    /// The base of the frequencies.
    pub freq_base: Option<f32>,
    /// A factor on the frequencies: 1/N for N times the context.
    pub freq_scale: Option<f32>,
    /// `YaRN`: share of extrapolation.
    pub yarn_ext_factor: Option<f32>,
    /// `YaRN`: factor on the attention's magnitude.
    pub yarn_attn_factor: Option<f32>,
    /// `YaRN`: where extrapolation begins.
    pub yarn_beta_fast: Option<f32>,
    /// `YaRN`: where extrapolation ends.
    pub yarn_beta_slow: Option<f32>,
    /// `YaRN`: the context the model was trained on.
    pub yarn_orig_ctx: Option<u32>,
}

/// How threads and memory are laid out over the nodes of a NUMA machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numa {
    /// Evenly over all nodes.
    Distribute,
    /// On the node the program started on.
    Isolate,
    /// As `numactl` has it.
    Numactl,
}

/// Where activations are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SumOn {
    /// Where they lie: on a device those that are in its memory, by this program those in the host's.
    #[default]
    Auto,
    /// On the device that computes them, the CPU included: those in host memory too go through a graph.
    Device,
    /// By this program: what lies on a device is fetched.
    Host,
}
