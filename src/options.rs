//! Options for loading and evaluating a model. They do not need llama.cpp.

/// Layers on devices other than the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As many as llama.cpp estimates to fit.
    #[default]
    Auto,
    /// All layers.
    All,
    /// This number of layers.
    Count(u32),
}

/// Split of a model over several devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitMode {
    /// No split: one device holds the model.
    None,
    /// By layers, with their part of the cache.
    #[default]
    Layer,
    /// By rows of matrices.
    Row,
    /// By matrices and cache.
    Tensor,
}

/// Method of loading weights into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// Map the file if all devices support it.
    #[default]
    Auto,
    /// Read the file.
    Read,
    /// Map the file.
    Map,
    /// Read the file and lock the memory.
    Lock,
    /// Map the file and lock the memory.
    MapAndLock,
    /// Read the file with direct I/O.
    Direct,
}

/// Tables whose rows are read from the file only when they are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LazyMode {
    /// Tables above 4 GiB.
    #[default]
    Auto,
    /// All tables.
    On,
    /// No table.
    Off,
}

/// A value that replaces one in the model's file.
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

/// Method of scaling `RoPE` to a longer context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeScaling {
    /// No scaling.
    None,
    /// The same factor for all frequencies.
    Linear,
    /// `YaRN`, <https://arxiv.org/abs/2309.00071>.
    Yarn,
}

/// Settings of `RoPE`; `None` for those of the model's file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rope {
    /// Method of scaling.
    pub scaling: Option<RopeScaling>,
    /// Base of the frequencies.
    pub freq_base: Option<f32>,
    /// Factor on the frequencies: 1/N for N times the context.
    pub freq_scale: Option<f32>,
    /// `YaRN`: share of extrapolation.
    pub yarn_ext_factor: Option<f32>,
    /// `YaRN`: factor on the attention's magnitude.
    pub yarn_attn_factor: Option<f32>,
    /// `YaRN`: where extrapolation begins.
    pub yarn_beta_fast: Option<f32>,
    /// `YaRN`: where extrapolation ends.
    pub yarn_beta_slow: Option<f32>,
    /// `YaRN`: context length that the model was trained with.
    pub yarn_orig_ctx: Option<u32>,
}

/// Placement of threads and memory on the nodes of a NUMA machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numa {
    /// Distribute over all nodes.
    Distribute,
    /// Keep on the node that the program started on.
    Isolate,
    /// Follow `numactl`.
    Numactl,
}

/// Place where activations are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SumOn {
    /// Activations in a device's memory on that device, those in host memory by this program.
    #[default]
    Auto,
    /// Always by a graph on the device that computes them, also on the CPU.
    Device,
    /// By this program, after a transfer from the device to the host.
    Host,
}
