//! Drives the collector without llama.cpp, with numbers that can be checked by hand.

mod accumulators;
mod devices;
mod halves;
mod lanes;
mod shared;
#[cfg(shuttle)]
mod turns;

use super::collector::{Collector, CollectorOptions};
use super::{Earlier, Ids, Kind, Lane, Product, Rows};
use crate::imatrix::{Entry, Imatrix};
use crate::sums::Accumulate;

fn collector() -> Lane {
    continued(&Imatrix::default())
}

fn continued(imatrix: &Imatrix) -> Lane {
    let collector = Collector::new(&CollectorOptions { chunk_size: 16, ..CollectorOptions::default() });
    collector.start_from(Earlier::from_imatrix(imatrix, Accumulate::F32).unwrap());
    collector.lane()
}

/// Returns a dense product of a weight of one matrix, with an input of the shape of `rows`.
fn dense<'a>(weight: &'a str, input: usize, rows: &Rows<'_>) -> Product<'a> {
    Product {
        kind: Kind::Dense,
        weight,
        weight_ne: [rows.ne[0] as i64, 8, 1, 1],
        input,
        input_ne: rows.ne.map(|n| n as i64),
        input_is_f32: true,
        ids: 0,
    }
}

fn routed<'a>(weight: &'a str, experts: i64, input: usize, ids: usize, rows: &Rows<'_>) -> Product<'a> {
    let plain = dense(weight, input, rows);
    Product { kind: Kind::Routed, weight_ne: [plain.weight_ne[0], 8, experts, 1], ids, ..plain }
}

/// Returns contiguous rows.
fn packed(data: &[f32], ne: [usize; 4]) -> Rows<'_> {
    Rows { data, ne, stride: [1, ne[0], ne[0] * ne[1], ne[0] * ne[1] * ne[2]] }
}

fn entry(lane: &Lane, weight: &str) -> Entry {
    lane.collector().snapshot().get(weight).expect("the weight was collected").into_owned()
}

fn sum(entry: &Entry) -> &[f32] {
    entry.sum.as_deref().expect("sums were collected")
}

/// Evaluates a graph of these products and adds those that are asked for. Returns which were asked for.
fn evaluate(lane: &mut Lane, products: &[(Product<'_>, Rows<'_>)]) -> Vec<bool> {
    lane.begin_decode();
    let mut asked = Vec::new();
    for (node, (product, rows)) in products.iter().enumerate() {
        lane.begin_node(1000 + node);
        asked.push(lane.asks(product));
        if asked[node] {
            lane.add(product, rows, None).unwrap();
        }
    }
    asked
}
