//! Additions to one entry: a dense input, one for a matrix a head, and routed experts.

use super::error::Error;
use super::product::{Ids, Kind, Product, Rows};
use super::stored::Stored;

/// Row starts, kept between additions so that the hot path allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    starts: Vec<usize>,
    /// Where each expert's rows begin in `starts`; one more than there are experts.
    bounds: Vec<usize>,
}

/// Adds every row of `input`. A weight of several matrices (MLA: one a head) keeps sums for each and one count:
/// block `(i2, i3)` of the input meets matrix `(i2 mod ne[2], i3 mod ne[3])`.
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

/// Adds each token's row to the experts it is routed to, and counts it there.
///
/// The input has one row a token that all its experts read (gate, up), or one for each of them (down).
/// An expert's rows are added slot by slot and within a slot token by token, as llama.cpp's tool does.
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
        return Err(bad_input(product, "a routed input has at least one row a token and no fourth dimension", input));
    }
    if ids.n_tokens != n_tokens {
        return Err(bad_input(product, "a routed input has as many tokens as there are rows of expert ids", input));
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

/// Readies sums for an addition on a device, and counts its rows where they are all dense: how many go to each expert
/// comes home with the sums.
pub(super) fn prepare_on_device(entry: &mut Stored, product: &Product<'_>) -> Result<(), Error> {
    let [channels, n1, n2, n3] = product.input_ne.map(|n| n.max(0) as usize);
    let matrices = product.weight_ne[2..].iter().map(|&n| n.max(1) as usize).product();
    let counts = if product.kind == Kind::Routed { matrices } else { 1 };
    settle_counts(entry, counts);
    if entry.widen().is_none() {
        return Err(Error::Input {
            weight: product.weight.to_owned(),
            rule: "exact sums are the host's",
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

/// Files of older versions have a count a matrix where one says it all, or one for all experts.
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

/// Sorts the rows by expert, stable in the order of slots and then tokens.
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
    // Count, sum up, place: `bounds[e + 1]` is first the number of rows of `e`, then its next free place, then its end.
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

/// Gives a new entry its size; refuses one of another.
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

/// The first token of the micro-batch whose activations are not finite, if there is one: sums of finite ones may overflow.
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
        // A block a head, or tokens by sequence.
        Kind::Dense if several => i1,
        Kind::Dense => (i3 * n2 + i2) * n1 + i1,
    })
    .min()
}

fn bad_input(product: &Product<'_>, rule: &'static str, input: &Rows<'_>) -> Error {
    Error::Input { weight: product.weight.to_owned(), rule, found: format!("an input of shape {:?}", input.ne) }
}
