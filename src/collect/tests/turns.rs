//! Runs lanes in thousands of thread orders, chosen by a scheduler (`scripts/turns.sh`). A deadlock fails the test, and
//! so does a single different bit.

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::super::{Error, Snapshot};
use super::lanes::input;
use super::*;

const BATCHES: usize = 6;
/// Number of orders that each scheduler tries: one picks them at random, the other with few thread switches (PCT).
const ORDERS: usize = 3000;
/// Q and K read one input, and so do gate and up.
const GRAPH: &[(&str, usize)] = &[
    ("blk.0.attn_q.weight", 1),
    ("blk.0.attn_k.weight", 1),
    ("blk.0.ffn_gate.weight", 2),
    ("blk.0.ffn_up.weight", 2),
    ("blk.0.ffn_down.weight", 3),
];

/// Evaluates a batch. In batch `parts`, K reads another input.
fn run_batch(lane: &mut Lane, batch: usize, parts: Option<usize>) -> Result<(), Error> {
    lane.begin_batch(batch);
    lane.begin_decode();
    for (node, &(weight, index)) in GRAPH.iter().enumerate() {
        let index = if parts == Some(batch) && node == 1 { 7 } else { index };
        lane.begin_node(node);
        let data = input(batch, index);
        let rows = packed(&data, [2, 16, 1, 1]);
        let product = dense(weight, 100 + index, &rows);
        if lane.asks(&product) {
            lane.add(&product, &rows, None)?;
        }
    }
    lane.end_batch()
}

fn new_collector() -> Collector {
    Collector::new(&CollectorOptions { chunk_size: 16, output_every: 2, ..CollectorOptions::default() })
}

fn one_by_one(parts: Option<usize>) -> (Snapshot, Vec<Snapshot>) {
    let collector = new_collector();
    let mut lane = collector.lane();
    (0..BATCHES).for_each(|batch| run_batch(&mut lane, batch, parts).unwrap());
    (collector.snapshot(), collector.take_due(BATCHES))
}

/// Evaluates as `evaluate::lanes` does: the first batch alone, then each lane takes the next one.
fn side_by_side(
    lanes: usize,
    run: impl Fn(&mut Lane, usize) -> Result<(), Error> + Send + Sync + 'static,
) -> (Collector, Vec<Result<(), Error>>) {
    let collector = new_collector();
    run_batch(&mut collector.lane(), 0, None).unwrap();
    collector.overlap();
    let (next, run) = (Arc::new(AtomicUsize::new(1)), Arc::new(run));
    let threads: Vec<_> = (0..lanes)
        .map(|_| {
            let (collector, next, run) = (collector.clone(), Arc::clone(&next), Arc::clone(&run));
            thread::spawn(move || {
                let mut lane = collector.lane();
                loop {
                    let batch = next.fetch_add(1, Ordering::SeqCst);
                    if batch >= BATCHES {
                        return Ok(());
                    }
                    if let Err(error) = run(&mut lane, batch) {
                        collector.stop();
                        return Err(error);
                    }
                }
            })
        })
        .collect();
    let ended = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    (collector, ended)
}

fn in_many_orders(test: fn()) {
    shuttle::check_random(test, ORDERS);
    shuttle::check_pct(test, ORDERS, 3);
}

fn same(a: &Snapshot, b: &Snapshot) {
    assert_eq!((&a.due, a.chunks, a.batch), (&b.due, b.chunks, b.batch));
    assert!(a.entries().eq(b.entries()), "after batch {}", a.batch);
}

fn gives_the_sums_of_one_lane(lanes: usize, parts: Option<usize>) {
    let (want, want_due) = one_by_one(parts);
    let (collector, ended) = side_by_side(lanes, move |lane, batch| run_batch(lane, batch, parts));
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    same(&want, &collector.snapshot());
    let due = collector.take_due(BATCHES);
    assert_eq!(due.len(), want_due.len());
    want_due.iter().zip(&due).for_each(|(want, found)| same(want, found));
}

#[test]
fn two_lanes_give_the_sums_of_one_in_any_order() {
    in_many_orders(|| gives_the_sums_of_one_lane(2, None));
}

#[test]
fn three_lanes_give_the_sums_of_one_in_any_order() {
    in_many_orders(|| gives_the_sums_of_one_lane(3, None));
}

#[test]
fn a_weight_that_parts_gives_the_sums_of_one_lane_in_any_order() {
    in_many_orders(|| gives_the_sums_of_one_lane(2, Some(3)));
    in_many_orders(|| gives_the_sums_of_one_lane(3, Some(1)));
}

/// A requested snapshot contains no batch in part.
#[test]
fn a_snapshot_at_any_time_has_whole_batches() {
    in_many_orders(|| {
        let collector = Collector::new(&CollectorOptions { chunk_size: 16, ..CollectorOptions::default() });
        run_batch(&mut collector.lane(), 0, None).unwrap();
        collector.overlap();
        let next = Arc::new(AtomicUsize::new(1));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (collector, next) = (collector.clone(), Arc::clone(&next));
                thread::spawn(move || {
                    let mut lane = collector.lane();
                    loop {
                        match next.fetch_add(1, Ordering::SeqCst) {
                            batch if batch < BATCHES => run_batch(&mut lane, batch, None).unwrap(),
                            _ => break,
                        }
                    }
                })
            })
            .collect();
        collector.request_snapshot();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let snapshots = collector.take_due(BATCHES);
        assert_eq!(snapshots.len(), 1);
        let alone = Collector::new(&CollectorOptions { chunk_size: 16, ..CollectorOptions::default() });
        let mut lane = alone.lane();
        (0..=snapshots[0].batch).for_each(|batch| run_batch(&mut lane, batch, None).unwrap());
        assert!(snapshots[0].entries().eq(alone.snapshot().entries()), "after batch {}", snapshots[0].batch);
    });
}

/// The lane of batch 2 fails after the batch has begun; no other lane waits forever.
#[test]
fn a_lane_that_fails_releases_the_others_in_any_order() {
    in_many_orders(|| {
        let (_, ended) = side_by_side(3, |lane, batch| {
            if batch != 2 {
                return run_batch(lane, batch, None);
            }
            lane.begin_batch(batch);
            Err(Error::Order { weight: "it failed".to_owned() })
        });
        let failed = ended.iter().filter(|ended| matches!(ended, Err(Error::Order { .. }))).count();
        assert_eq!(failed, 1, "{ended:?}");
        assert!(
            ended.iter().all(|ended| matches!(ended, Ok(()) | Err(Error::Order { .. } | Error::Stopped))),
            "{ended:?}"
        );
    });
}
