//! Adds the rows of one input to the sums of one weight: dense, one matrix per head, or routed experts.

use super::error::Error;
use super::product::{Ids, Kind, Product, Rows};
use super::stored::Stored;

/// Row starts. All additions reuse them, so they allocate nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    starts: Vec<usize>,
    /// The rows of expert `e` start at `starts[bounds[e]..bounds[e + 1]]`.
    bounds: Vec<usize>,
}

/// Adds every row of `input`. A weight of several matrices (MLA: one per head) has sums per matrix and one count. As in
/// llama.cpp's tool, block `(i2, i3)` of the input is added to the sums of matrix `(i2 mod ne[2], i3 mod ne[3])`, with
/// the weight's `ne`.
pub(super) fn add_dense(
    entry: &mut Stored,
    product: &Product<'_>,
    input: &Rows<'_>,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    let [channels, n_rows, n2, n3] = input.ne;
    let [m2, m3] = [product.weight_ne[2], product.weight_ne[3]].map(|n| n.max(1) as usize);
    let matrices = m2 * m3;
    settle_counts(entry, 1);
    prepare(entry, product, channels, matrices, 1)?;

    for i3 in 0..n3 {
        for i2 in 0..n2 {
            let matrix = (i3 % m3) * m2 + i2 % m2;
            scratch.starts.clear();
            scratch.starts.extend((0..n_rows).map(|i1| input.start(i1, i2, i3)));
            add_to_matrix(entry, product, matrix, input, &scratch.starts)?;
        }
    }
    let rows = (input.n_rows() / matrices) as i64;
    entry.counts_mut().iter_mut().for_each(|count| *count += rows);
    Ok(())
}

/// Adds each token's row to the sums and the count of each expert that the token is routed to.
///
/// The input has one row per token, which all its experts read (gate, up), or one row per token and slot (down). As in
/// llama.cpp's tool, the rows of an expert are added in the order of slots, and within a slot in the order of tokens.
pub(super) fn add_routed(
    entry: &mut Stored,
    product: &Product<'_>,
    input: &Rows<'_>,
    ids: &Ids<'_>,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    let [channels, rows_a_token, n_tokens, n3] = input.ne;
    let experts = product.weight_ne[2].max(1) as usize;
    if n3 != 1 || rows_a_token == 0 {
        return Err(bad_input(product, "expected at least one row per token and no fourth dimension", input));
    }
    if ids.n_tokens != n_tokens {
        return Err(bad_input(product, "expected as many tokens as the expert ids have", input));
    }
    settle_counts(entry, experts);
    prepare(entry, product, channels, experts, experts)?;
    check_counts(entry, product, experts)?;

    group_by_expert(product, input, ids, experts, scratch)?;
    let Scratch { starts, bounds } = scratch;
    for expert in (0..experts).filter(|&expert| bounds[expert] < bounds[expert + 1]) {
        let starts = &starts[bounds[expert]..bounds[expert + 1]];
        add_to_matrix(entry, product, expert, input, starts)?;
        entry.counts_mut()[expert] += starts.len() as i64;
    }
    Ok(())
}

/// Prepares an entry for an addition on a device. Counts the rows of a dense input; the device counts those of routed
/// experts.
pub(super) fn prepare_on_device(entry: &mut Stored, product: &Product<'_>) -> Result<(), Error> {
    let [channels, n1, n2, n3] = product.input_ne.map(|n| n.max(0) as usize);
    let matrices = product.weight_ne[2..].iter().map(|&n| n.max(1) as usize).product();
    let counts = if product.kind == Kind::Routed { matrices } else { 1 };
    settle_counts(entry, counts);
    if entry.widen().is_none() {
        return Err(Error::Input {
            weight: product.weight.to_owned(),
            rule: "exact sums are computed on the host",
            found: "an addition on a device".to_owned(),
        });
    }
    prepare(entry, product, channels, matrices, counts)?;
    check_counts(entry, product, counts)?;
    if product.kind == Kind::Dense {
        let rows = (n1 * n2 * n3 / matrices) as i64;
        entry.counts_mut().iter_mut().for_each(|count| *count += rows);
    }
    Ok(())
}

/// Adapts counts of older files: equal counts per matrix become one count if `counts` is 1, and a single count is
/// repeated for every expert otherwise.
fn settle_counts(entry: &mut Stored, counts: usize) {
    let Some(&first) = entry.counts().first() else { return };
    if counts == 1 && entry.counts().iter().all(|&count| count == first) {
        entry.counts_mut().truncate(1);
    } else if counts > 1 && entry.counts().len() == 1 {
        entry.counts_mut().resize(counts, first);
    }
}

fn check_counts(entry: &Stored, product: &Product<'_>, counts: usize) -> Result<(), Error> {
    if product.kind == Kind::Dense || entry.counts().len() == counts {
        return Ok(());
    }
    Err(Error::ExpertCount { weight: product.weight.to_owned(), found: entry.counts().len(), expected: counts })
}

/// Groups the row starts by expert. Within an expert, they are in the order of slots and then of tokens.
fn group_by_expert(
    product: &Product<'_>,
    input: &Rows<'_>,
    ids: &Ids<'_>,
    experts: usize,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    let Scratch { starts, bounds } = scratch;
    let expert_of = |slot, token| {
        let found = ids.expert(slot, token).unwrap_or(-1);
        usize::try_from(found).ok().filter(|&expert| expert < experts).ok_or_else(|| Error::ExpertId {
            weight: product.weight.to_owned(),
            found,
            experts,
        })
    };
    // A counting sort. After the prefix sums, `bounds[e + 1]` is the start of expert `e`; placing its rows moves it to
    // the end.
    bounds.clear();
    bounds.resize(experts + 2, 0);
    for slot in 0..ids.n_used {
        for token in 0..ids.n_tokens {
            bounds[expert_of(slot, token)? + 2] += 1;
        }
    }
    for expert in 0..experts {
        bounds[expert + 2] += bounds[expert + 1];
    }
    starts.clear();
    starts.resize(ids.n_used * ids.n_tokens, 0);
    for slot in 0..ids.n_used {
        for token in 0..ids.n_tokens {
            let place = &mut bounds[expert_of(slot, token)? + 1];
            starts[*place] = input.start(slot % input.ne[1], token, 0);
            *place += 1;
        }
    }
    Ok(())
}

/// Sets the size of a new entry. Returns an error if an existing entry has another size.
fn prepare(
    entry: &mut Stored,
    product: &Product<'_>,
    channels: usize,
    matrices: usize,
    counts: usize,
) -> Result<(), Error> {
    let expected = channels * matrices;
    if entry.len() == 0 {
        entry.begin(expected, counts);
    }
    if entry.len() == expected {
        return Ok(());
    }
    Err(Error::Size { weight: product.weight.to_owned(), found: entry.len(), expected, channels, matrices })
}

fn add_to_matrix(
    entry: &mut Stored,
    product: &Product<'_>,
    matrix: usize,
    input: &Rows<'_>,
    starts: &[usize],
) -> Result<(), Error> {
    let channels = input.ne[0];
    let sum = entry.add_rows(matrix * channels..(matrix + 1) * channels, input.data, starts);
    sum.map_err(|(channel, value)| Error::NonFinite {
        weight: product.weight.to_owned(),
        matrix,
        channel,
        value,
        token: first_bad_token(product, input),
    })
}

/// Returns the first token of the micro-batch with an activation that is not finite. `None` if all are finite: their
/// sum may overflow.
fn first_bad_token(product: &Product<'_>, input: &Rows<'_>) -> Option<usize> {
    let [channels, n1, n2, n3] = input.ne;
    let several = product.weight_ne[2] > 1;
    let rows = (0..n3).flat_map(|i3| (0..n2).flat_map(move |i2| (0..n1).map(move |i1| (i1, i2, i3))));
    rows.filter(|&(i1, i2, i3)| {
        let start = input.start(i1, i2, i3);
        input.data[start..start + channels].iter().any(|x| !x.is_finite())
    })
    .map(|(i1, i2, i3)| match product.kind {
        Kind::Routed => i2,
        // With several matrices, a block is a head; otherwise it may be a sequence.
        Kind::Dense if several => i1,
        Kind::Dense => (i3 * n2 + i2) * n1 + i1,
    })
    .min()
}

fn bad_input(product: &Product<'_>, rule: &'static str, input: &Rows<'_>) -> Error {
    Error::Input { weight: product.weight.to_owned(), rule, found: format!("an input of shape {:?}", input.ne) }
}
