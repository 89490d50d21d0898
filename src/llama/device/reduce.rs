//! Graphs that sum rows.
//!
//! The sums of a matrix are one row of `2 · channels` values, Σx and then Σx². The matrices follow one another.

use llama_cpp_sys_2 as sys;

use crate::llama::graph_builder::{GraphBuilder, Node};
use crate::llama::{Op, TensorInfo};

/// Shape of a product's input, and the matrix that each row is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    /// The same number of rows per matrix.
    Dense { rows: i64, matrices: i64 },
    /// One row per token, or one per slot of a token, for the experts in the token's slots.
    Routed { tokens: i64, slots: i64, experts: i64, row_a_slot: bool },
}

impl Layout {
    /// Returns `None` for inputs that the host sums.
    pub(super) fn of(node: TensorInfo<'_>) -> Option<Self> {
        let (weight, input) = (node.src(0)?, node.src(1)?);
        let [_, n1, n2, n3] = input.ne();
        let [_, _, m2, m3] = weight.ne();
        if !input.is_f32() || input.nb()[0] != size_of::<f32>() || input.ne().iter().any(|&n| n < 1) {
            return None;
        }
        match node.op() {
            Op::MulMat if m2 * m3 == 1 => Some(Self::Dense { rows: n1 * n2 * n3, matrices: 1 }),
            Op::MulMat => ([m2, m3] == [n2, n3]).then_some(Self::Dense { rows: n1, matrices: n2 * n3 }),
            Op::MulMatId => {
                let ids = node.src(2)?;
                let [slots, tokens, ..] = ids.ne();
                let fits = ids.is_i32() && n3 == 1 && n2 == tokens && (n1 == 1 || n1 == slots) && slots > 0;
                fits.then_some(Self::Routed { tokens, slots, experts: m2, row_a_slot: n1 == slots })
            }
            Op::Other => None,
        }
    }

    pub(super) fn matrices(self) -> i64 {
        match self {
            Self::Dense { matrices, .. } => matrices,
            Self::Routed { experts, .. } => experts,
        }
    }
}

/// Precision of a device's f32 products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Products {
    /// f32.
    Plain,
    /// Fewer bits (TF32): each value is split into three parts of 8 bits, whose products with 0 and 1 are exact.
    Split,
}

/// How rows are added up per expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Outer products of each row with its ones and zeros. The rows are not transposed. Few devices have the operation.
    Outer(Products),
    /// Inner products of transposed rows. All devices have the operation.
    Inner(Products),
}

/// Sums of one input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reduced {
    /// `[2 · channels, matrices]`.
    pub(super) sums: Node,
    /// `[1, experts]`, if rows are routed.
    pub(super) counts: Option<Node>,
}

/// Sums `x`, which is contiguous and has the elements of `[channels, rows, matrices]` in any dimensions.
pub(super) fn dense(builder: &GraphBuilder<'_>, x: Node, rows: i64, matrices: i64) -> Reduced {
    let channels = x.ne()[0];
    let x = builder.reshape_3d(x, channels, rows, matrices);
    let squares = builder.sqr(x);
    // Halve the rows once before x and x² are concatenated: that copies them.
    let half = rows / 2;
    let pair = |first, count| {
        builder.concat(builder.rows(x, first, count), builder.rows(squares, first, count), 0) // 2 · channels
    };
    let sums = if half == 0 {
        pair(0, 1)
    } else {
        let halved = |of| builder.add(builder.rows(of, 0, half), builder.rows(of, half, half));
        let both = tree(builder, builder.concat(halved(x), halved(squares), 0));
        if rows % 2 == 1 { builder.add(both, pair(rows - 1, 1)) } else { both }
    };
    Reduced { sums: builder.reshape_2d(sums, 2 * channels, matrices), counts: None }
}

/// Sums `[n, rows, matrices]` to `[n, 1, matrices]` by adding halves, so the error grows with the logarithm of the
/// rows.
fn tree(builder: &GraphBuilder<'_>, mut x: Node) -> Node {
    let mut rest = None;
    loop {
        let rows = x.ne()[1];
        if rows == 1 {
            break;
        }
        let half = rows / 2;
        if rows % 2 == 1 {
            let last = builder.rows(x, rows - 1, 1);
            rest = Some(rest.map_or(last, |rest| builder.add(rest, last)));
        }
        x = builder.add(builder.rows(x, 0, half), builder.rows(x, half, half));
    }
    rest.map_or(x, |rest| builder.add(x, rest))
}

/// Sums rows per expert: multiplies them with a matrix of ones and zeros that has one column per expert. Its rows are
/// picked by the ids, which are contiguous, from `identity`, an identity matrix.
pub(super) fn routed(
    builder: &GraphBuilder<'_>,
    (x, ids, identity): (Node, Node, Node),
    (tokens, slots, row_a_slot): (i64, i64, bool),
    method: Method,
) -> Reduced {
    let (channels, experts) = (x.ne()[0], identity.ne()[0]);
    let picked = builder.get_rows(identity, builder.reshape_1d(ids, slots * tokens));
    let by_row = if row_a_slot || slots == 1 {
        picked
    } else {
        let apart = builder.permute(builder.reshape_3d(picked, experts, slots, tokens), 1, 0, 2, 3);
        builder.reshape_2d(builder.sum_rows(builder.cont(apart)), experts, tokens)
    };
    let rows = if row_a_slot { slots * tokens } else { tokens };
    let by_expert = builder.cont(builder.transpose(by_row)); // [rows, experts]
    let x = builder.reshape_2d(x, channels, rows);
    let sums = match method {
        Method::Outer(products) => {
            let sum = |of| multiply(builder, of, products, |of| builder.out_prod(of, by_row));
            builder.concat(sum(x), sum(builder.sqr(x)), 0)
        }
        Method::Inner(products) => {
            let x = builder.cont(builder.transpose(x));
            let both = builder.concat(x, builder.sqr(x), 1); // [rows, 2 · channels]
            multiply(builder, both, products, |of| builder.mul_mat(of, by_expert))
        }
    };
    Reduced { sums, counts: Some(builder.sum_rows(by_expert)) }
}

/// Computes the `product` of `x` with ones and zeros.
fn multiply(builder: &GraphBuilder<'_>, x: Node, products: Products, product: impl Fn(Node) -> Node) -> Node {
    match products {
        Products::Plain => product(x),
        Products::Split => {
            let upper = |of| builder.cast(builder.cast(of, sys::GGML_TYPE_BF16), sys::GGML_TYPE_F32);
            let high = upper(x);
            let rest = builder.sub(x, high);
            let middle = upper(rest);
            let low = builder.sub(rest, middle);
            builder.add(builder.add(product(low), product(middle)), product(high))
        }
    }
}
