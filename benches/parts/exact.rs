//! Exact sums of one micro-batch's input: what `collect::dense` does in f32.

use divan::Bencher;
use divan::counter::BytesCount;
use llama_imatrix::exact::ExactEntry;

use super::activations;

const EXPERTS: usize = 64;

/// Every row meets one matrix.
#[divan::bench(args = [1024, 3072])]
fn dense(bencher: Bencher, channels: usize) {
    let data = activations(channels * 512);
    let starts: Vec<usize> = (0..512).map(|row| row * channels).collect();
    let mut entry = ExactEntry::zeros(channels, 1);
    bencher.counter(BytesCount::of_slice(&data)).bench_local(|| entry.add_rows(0..channels, &data, &starts));
}

/// A token's row goes to 8 of 64 experts: 64 rows each.
#[divan::bench(args = [1024])]
fn routed(bencher: Bencher, channels: usize) {
    let data = activations(channels * 512);
    let starts: Vec<usize> = (0..64).map(|row| row * 8 * channels).collect();
    let mut entry = ExactEntry::zeros(channels * EXPERTS, EXPERTS);
    bencher.counter(BytesCount::of_slice(&data)).bench_local(|| {
        (0..EXPERTS).try_for_each(|expert| entry.add_rows(expert * channels..(expert + 1) * channels, &data, &starts))
    });
}

/// As when shards are merged.
#[divan::bench]
fn merge(bencher: Bencher) {
    let mut into = ExactEntry::zeros(1024 * EXPERTS, EXPERTS);
    let from = into.clone();
    bencher.counter(BytesCount::new(1024 * EXPERTS * 40)).bench_local(|| into.merge(&from));
}

/// As when the matrix is written.
#[divan::bench]
fn round(bencher: Bencher) {
    let mut entry = ExactEntry::zeros(1024 * EXPERTS, EXPERTS);
    entry.add_rows(0..1024 * EXPERTS, &activations(1024 * EXPERTS), &[0]).expect("numbers in range");
    bencher.counter(BytesCount::new(1024 * EXPERTS * 40)).bench(|| entry.round());
}
