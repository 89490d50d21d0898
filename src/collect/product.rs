//! Matrix products as plain data: what the rule and the accumulators need of a graph node.

/// How a weight meets its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Every row meets every matrix of the weight (`MUL_MAT`).
    Dense,
    /// Every token meets the experts it is routed to (`MUL_MAT_ID`).
    Routed,
}

/// A product of a weight with an input, before it is computed.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// Dense or routed.
    pub kind: Kind,
    /// The weight's name, stripped of what schedulers put around it.
    pub weight: &'a str,
    /// The weight's shape, `[channels, outputs, matrices, groups of matrices]`.
    pub weight_ne: [i64; 4],
    /// Identity of the input tensor within this evaluation of the graph.
    pub input: usize,
    /// The input's shape, `[channels, rows, ..]`.
    pub input_ne: [i64; 4],
    /// Whether the input's elements are f32.
    pub input_is_f32: bool,
    /// Identity of the tensor of expert ids; 0 for dense products.
    pub ids: usize,
}

/// The input of a product: rows of f32 that may lie apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Elements from the first of the first row to the last of the last.
    pub data: &'a [f32],
    /// Elements along each dimension; `ne[0]` channels.
    pub ne: [usize; 4],
    /// Elements from one index to the next along each dimension; `stride[0]` is 1.
    pub stride: [usize; 4],
}

impl Rows<'_> {
    /// Where row `(i1, i2, i3)` starts in [`data`](Self::data).
    #[must_use]
    pub(crate) fn start(&self, i1: usize, i2: usize, i3: usize) -> usize {
        i1 * self.stride[1] + i2 * self.stride[2] + i3 * self.stride[3]
    }

    /// Number of rows.
    #[must_use]
    pub(crate) fn n_rows(&self) -> usize {
        self.ne[1] * self.ne[2] * self.ne[3]
    }
}

/// The experts of each token: `[n_used, n_tokens]`, which may lie apart since it is cut from a larger tensor.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// Ids from the first to the last, gaps included.
    pub data: &'a [i32],
    /// Experts a token is routed to.
    pub n_used: usize,
    /// Tokens.
    pub n_tokens: usize,
    /// Elements from one slot to the next, and from one token to the next.
    pub stride: [usize; 2],
}

impl Ids<'_> {
    /// The expert in slot `slot` of token `token`.
    #[must_use]
    pub(crate) fn expert(&self, slot: usize, token: usize) -> Option<i32> {
        self.data.get(slot * self.stride[0] + token * self.stride[1]).copied()
    }
}
