//! Matrix products as plain data: what the rule and the accumulators need of a graph node.

/// How a weight is multiplied with its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `MUL_MAT`: every row is multiplied with the weight, or with one of its matrices (MLA: one per head).
    Dense,
    /// `MUL_MAT_ID`: every token is multiplied with the experts that it is routed to.
    Routed,
}

/// A product of a weight with an input, before it is computed.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// How the weight is multiplied with the input.
    pub kind: Kind,
    /// Name of the weight, without the scheduler's additions: `blk.0.attn_k.weight`, not `CUDA0#blk.0.attn_k.weight#0`.
    pub weight: &'a str,
    /// Shape of the weight: `[channels, outputs, matrices, groups of matrices]`.
    pub weight_ne: [i64; 4],
    /// Identity of the input tensor within an evaluation of the graph.
    pub input: usize,
    /// Shape of the input: `[channels, rows, ..]`; for routed products `[channels, 1 or slots, tokens, 1]`.
    pub input_ne: [i64; 4],
    /// True if the elements of the input are f32.
    pub input_is_f32: bool,
    /// Identity of the tensor of expert ids; 0 for dense products.
    pub ids: usize,
}

/// The input of a product: rows of f32, with strides.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Elements from the start of the first row to the end of the last, gaps included.
    pub data: &'a [f32],
    /// Number of elements along each dimension; `ne[0]` is the number of channels.
    pub ne: [usize; 4],
    /// Distance in elements between adjacent indices of each dimension; `stride[0]` is 1.
    pub stride: [usize; 4],
}

impl Rows<'_> {
    /// Returns the index in [`data`](Self::data) at which row `(i1, i2, i3)` starts.
    #[must_use]
    pub(crate) fn start(&self, i1: usize, i2: usize, i3: usize) -> usize {
        i1 * self.stride[1] + i2 * self.stride[2] + i3 * self.stride[3]
    }

    /// Returns the number of rows.
    #[must_use]
    pub(crate) fn n_rows(&self) -> usize {
        self.ne[1] * self.ne[2] * self.ne[3]
    }
}

/// The expert ids of each token: `[n_used, n_tokens]`, with strides, since llama.cpp's tensor is a view of a larger
/// one.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// Ids from the first to the last, gaps included.
    pub data: &'a [i32],
    /// Number of experts per token.
    pub n_used: usize,
    /// Number of tokens.
    pub n_tokens: usize,
    /// Distance in elements between adjacent slots, and between adjacent tokens.
    pub stride: [usize; 2],
}

impl Ids<'_> {
    /// Returns the expert in slot `slot` of token `token`; `None` beyond the end of the data.
    #[must_use]
    pub(crate) fn expert(&self, slot: usize, token: usize) -> Option<i32> {
        self.data.get(slot * self.stride[0] + token * self.stride[1]).copied()
    }
}
