//! The sums of one micro-batch's input.

use divan::Bencher;
use divan::counter::BytesCount;
use llama_imatrix::collect::{Ids, Kind, Product, Rows};
use llama_imatrix::{Collector, CollectorOptions};

use super::activations;

const TOKENS: usize = 512;
const EXPERTS: usize = 64;
const USED: usize = 8;

/// Every row meets one matrix.
#[divan::bench(args = [1024, 3072])]
fn dense(bencher: Bencher, channels: usize) {
    let product = product(Kind::Dense, [channels, channels, 1], [channels, TOKENS, 1]);
    collect(bencher, &product, None);
}

/// A token's row goes to each of its experts (gate, up).
#[divan::bench(args = [1024])]
fn routed_shared_row(bencher: Bencher, channels: usize) {
    let product = product(Kind::Routed, [channels, 512, EXPERTS], [channels, 1, TOKENS]);
    collect(bencher, &product, Some(&experts()));
}

/// Each of a token's experts has a row of its own (down).
#[divan::bench(args = [512])]
fn routed_own_rows(bencher: Bencher, channels: usize) {
    let product = product(Kind::Routed, [channels, 1024, EXPERTS], [channels, USED, TOKENS]);
    collect(bencher, &product, Some(&experts()));
}

fn product(kind: Kind, weight: [usize; 3], input: [usize; 3]) -> Product<'static> {
    let ne = |n: [usize; 3]| [n[0] as i64, n[1] as i64, n[2] as i64, 1];
    Product {
        kind,
        weight: "blk.0.ffn_up.weight",
        weight_ne: ne(weight),
        input: 1,
        input_ne: ne(input),
        input_is_f32: true,
        ids: usize::from(kind == Kind::Routed),
    }
}

/// Experts of each token, all different, and all experts about equally often.
fn experts() -> Vec<i32> {
    (0..TOKENS).flat_map(|token| (0..USED).map(move |slot| ((token * 37 + slot * 11) % EXPERTS) as i32)).collect()
}

fn collect(bencher: Bencher, product: &Product<'_>, experts: Option<&Vec<i32>>) {
    let ne = product.input_ne.map(|n| n as usize);
    let data = activations(ne.iter().product());
    let rows = Rows { data: &data, ne, stride: [1, ne[0], ne[0] * ne[1], data.len()] };
    let ids = experts.map(|data| Ids { data, n_used: USED, n_tokens: TOKENS, stride: [1, USED] });
    let mut lane = Collector::new(&CollectorOptions::default()).lane();
    bencher.counter(BytesCount::of_slice(&data)).bench_local(|| {
        lane.begin_decode();
        lane.begin_node(1);
        assert!(lane.asks(product));
        lane.add(product, &rows, ids.as_ref())
    });
}
