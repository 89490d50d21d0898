//! Batches in parallel give the bits of one batch after the other, and so do the snapshots taken in between.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::{Due, Snapshot};
use super::*;

pub(super) const BATCHES: usize = 40;
const LOOPED: &str = "blk.1.loop.weight";
/// Weight and input of each product of the graph. Some weights share an input; `LOOPED` is used twice.
const GRAPH: &[(&str, usize)] = &[
    ("blk.0.attn_q.weight", 1),
    ("blk.0.attn_k.weight", 1),
    ("blk.0.attn_output.weight", 2),
    ("blk.0.ffn_gate.weight", 3),
    ("blk.0.ffn_up.weight", 3),
    ("blk.1.attn_q.weight", 4),
    (LOOPED, 5),
    (LOOPED, 8),
    ("blk.1.ffn_down.weight", 6),
];

/// Returns 16 rows of two channels, with values so different in size that the order of addition changes the bits.
pub(super) fn input(batch: usize, input: usize) -> Vec<f32> {
    (0..32)
        .map(|i| {
            let bits = (batch * 977 + input * 131 + i * 29) % 251;
            (bits as f32 - 125.0) * 10_f32.powi((bits % 7) as i32 - 3)
        })
        .collect()
}

/// Returns the graph of a batch. In batch 25, K reads another input. With `looped`, the looped weight has the most rows
/// but is not the first of the graph, so batches do not overlap.
fn graph(batch: usize, looped: bool) -> Vec<(&'static str, usize)> {
    let mut graph = GRAPH.to_vec();
    graph.retain(|&(weight, _)| looped || weight != LOOPED);
    if batch == 25 {
        graph[1].1 = 7;
    }
    graph
}

/// Evaluates batch `batch` of the text as batch `index` of the run.
pub(super) fn run_batch(lane: &mut Lane, index: usize, batch: usize, looped: bool) -> Result<(), super::super::Error> {
    lane.begin_numbered_batch(index, batch);
    lane.begin_decode();
    for (node, (weight, number)) in graph(batch, looped).into_iter().enumerate() {
        lane.begin_node(node);
        let data = input(batch, number);
        let rows = packed(&data, [2, 16, 1, 1]);
        let product = dense(weight, 100 + number, &rows);
        let asked = lane.asks(&product);
        // Simulates a different computing time per node and batch.
        std::thread::sleep(Duration::from_micros(((batch * 7 + node * 13) % 5 * 40) as u64));
        if asked {
            lane.add(&product, &rows, None)?;
        }
    }
    lane.end_batch()
}

fn collect(lanes: usize, looped: bool) -> (Snapshot, Vec<Snapshot>) {
    let options = CollectorOptions {
        chunk_size: 16,
        output_every: 3,
        copy_every: 4,
        convergence: true,
        ..CollectorOptions::default()
    };
    let collector = Collector::new(&options);
    run_batch(&mut collector.lane(), 0, 0, looped).unwrap();
    collector.overlap();
    let next = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                let mut lane = collector.lane();
                loop {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    if batch >= BATCHES {
                        break;
                    }
                    run_batch(&mut lane, batch, batch, looped).unwrap();
                }
            });
        }
    });
    (collector.snapshot(), collector.take_due(BATCHES))
}

fn same(a: &Snapshot, b: &Snapshot) {
    assert_eq!((&a.due, a.chunks, a.batch), (&b.due, b.chunks, b.batch));
    assert!(a.stored().eq(b.stored()), "after batch {}", a.batch);
}

#[test]
fn any_number_of_lanes_gives_the_sums_of_one() {
    for looped in [false, true] {
        let (want, want_due) = collect(1, looped);
        assert_eq!(want.chunks, BATCHES as i32 * if looped { 2 } else { 1 });
        assert!(want_due.len() > 10);
        for lanes in [2, 3, 5] {
            let (found, due) = collect(lanes, looped);
            same(&want, &found);
            assert_eq!(want_due.len(), due.len());
            want_due.iter().zip(&due).for_each(|(want, found)| same(want, found));
        }
    }
}

/// A request takes the snapshot of the last batch that has begun. A save that is due before gives its snapshot first.
#[test]
fn a_requested_snapshot_does_not_displace_a_save_that_is_due() {
    let options = CollectorOptions { chunk_size: 16, output_every: 2, ..CollectorOptions::default() };
    let collector = Collector::new(&options);
    let (mut one, mut other) = (collector.lane(), collector.lane());
    run_batch(&mut one, 0, 0, false).unwrap();
    collector.overlap();
    other.begin_batch(2);
    collector.request_snapshot();
    run_batch(&mut one, 1, 1, false).unwrap();
    run_batch(&mut other, 2, 2, false).unwrap();
    let taken: Vec<_> = collector.take_due(2).into_iter().map(|s| (s.batch, s.due, s.chunks)).collect();
    assert_eq!(taken, [(1, vec![Due::Output], 2)]);
    collector.request_snapshot();
    assert_eq!(collector.take_due(2).len(), 1, "a request is repeated");
}

#[test]
fn a_lane_that_fails_releases_the_others() {
    let collector = Collector::new(&CollectorOptions { chunk_size: 16, ..CollectorOptions::default() });
    run_batch(&mut collector.lane(), 0, 0, false).unwrap();
    collector.overlap();
    let error = std::thread::scope(|scope| {
        // Batch 1 never begins.
        let waiting = scope.spawn(|| run_batch(&mut collector.lane(), 2, 2, false));
        std::thread::sleep(Duration::from_millis(20));
        collector.stop();
        waiting.join().unwrap()
    });
    assert_eq!(error, Err(super::super::Error::Stopped));
}
