//! Sums on a device, which an array stands for.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::Error;
use super::super::pending::BATCHES_AWAY;
use super::*;
use crate::sums::{OnDevice, Partial};

/// f32 sums of two channels: Σ x, then Σ x².
#[derive(Debug, Default)]
struct Device {
    sums: [f32; 4],
    counts: Vec<f32>,
    cleared: Arc<AtomicUsize>,
}

impl Device {
    fn add(&mut self, rows: &[[f32; 2]]) {
        for [a, b] in rows {
            for (sum, x) in self.sums.iter_mut().zip([*a, *b, a * a, b * b]) {
                *sum += x;
            }
        }
    }
}

impl OnDevice for Device {
    fn read(&self) -> Partial {
        let [a, b, a2, b2] = self.sums;
        Partial { sum2: vec![a2, b2], sum: vec![a, b], counts: self.counts.clone() }
    }

    fn counts(&self) -> Vec<f32> {
        self.counts.clone()
    }

    fn clear(&mut self) {
        self.sums = [0.0; 4];
        self.cleared.fetch_add(1, Ordering::Relaxed);
    }
}

const DOWN: &str = "blk.0.ffn_down.weight";

/// Evaluates a batch of one product, whose input is 16 times `row`.
fn batch(lane: &mut Lane, index: usize, row: [f32; 2], cleared: &Arc<AtomicUsize>) -> Result<(), Error> {
    lane.begin_batch(index);
    lane.begin_decode();
    lane.begin_node(1);
    let data = [0.0; 32];
    let product = dense(DOWN, 7, &packed(&data, [2, 16, 1, 1]));
    assert!(lane.asks(&product));
    lane.evaluation.add_on_device(&product, |there| {
        let mut sums = Device { cleared: Arc::clone(cleared), ..Device::default() };
        if let Some(there) = there {
            sums.sums = (&*there as &dyn Any).downcast_ref::<Device>().unwrap().sums;
        }
        sums.add(&[row; 16]);
        Ok(Box::new(sums))
    })?;
    lane.end_batch()
}

#[test]
fn device_sums_are_transferred_at_intervals_and_lose_nothing() {
    let cleared = Arc::new(AtomicUsize::new(0));
    let mut lane = collector();
    // In f32, adding the later squares to that of the first batch would lose them.
    batch(&mut lane, 0, [4096.0, 1.0], &cleared).unwrap();
    let batches = 3 * BATCHES_AWAY;
    for index in 1..batches {
        batch(&mut lane, index, [1.0, -1.0], &cleared).unwrap();
    }
    assert_eq!(cleared.load(Ordering::Relaxed), 2);
    let found = entry(&lane, DOWN);
    let more = 16 * (batches - BATCHES_AWAY) as i64;
    assert_eq!(found.counts, [16 * batches as i64]);
    assert_eq!(found.sum2[1].to_bits(), (16.0 * batches as f32).to_bits());
    assert!(found.sum2[0] >= (16 * 4096 * 4096 + more) as f32);
    assert_eq!(sum(&found)[1].to_bits(), (16.0 - 16.0 * (batches - 1) as f32).to_bits());
}

/// Halves of devices are whole intervals: each is transferred anyway, and no other sums are.
#[test]
fn halves_on_a_device_are_alternate_intervals_and_change_no_sum() {
    let run = |convergence: bool| {
        let cleared = Arc::new(AtomicUsize::new(0));
        let options = CollectorOptions { chunk_size: 16, convergence, ..CollectorOptions::default() };
        let mut lane = Collector::new(&options).lane();
        let mut snapshots = Vec::new();
        for index in 0..2 * BATCHES_AWAY + 3 {
            // 1 in the first interval, 2 in the second, 3 in the third.
            let x = (1 + index / BATCHES_AWAY) as f32;
            batch(&mut lane, index, [x, 1.0], &cleared).unwrap();
            snapshots.push(lane.collector().snapshot());
        }
        (snapshots, cleared.load(Ordering::Relaxed))
    };
    let ((with, transfers), (without, transfers_without)) = (run(true), run(false));
    assert_eq!(transfers, transfers_without);
    assert!(with.iter().zip(&without).all(|(with, without)| with.entries().eq(without.entries())));
    let rows = 16 * BATCHES_AWAY;
    for (index, even) in
        [(0, 16), (BATCHES_AWAY, rows), (2 * BATCHES_AWAY - 1, rows), (2 * BATCHES_AWAY, rows + 16 * 9)]
    {
        let (_, _, half) = with[index].stored().next().unwrap();
        assert_eq!(half.unwrap().sum2[0].to_bits(), (even as f64).to_bits(), "after batch {index}");
    }
}

#[test]
fn a_snapshot_includes_device_sums_and_does_not_change_them() {
    let cleared = Arc::new(AtomicUsize::new(0));
    let run = |snapshots: bool| {
        let mut lane = collector();
        for index in 0..BATCHES_AWAY + 3 {
            batch(&mut lane, index, [0.1 * index as f32, 3.7], &cleared).unwrap();
            if snapshots {
                lane.collector().request_snapshot();
                let snapshot = lane.collector().take_due(index).pop().unwrap();
                assert_eq!(snapshot.get(DOWN).unwrap().counts, [16 * (index + 1) as i64]);
                assert!(snapshot.get(DOWN).unwrap().sum2[1] > 3.7 * 3.7 * 15.9 * (index + 1) as f32);
            }
        }
        entry(&lane, DOWN)
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn device_sums_are_added_to_sums_from_a_file() {
    let mut imatrix = Imatrix::default();
    imatrix
        .entries
        .insert(DOWN.to_owned(), Entry { sum2: vec![10.0, 20.0], sum: Some(vec![1.0, 2.0]), counts: vec![32] });
    let mut lane = continued(&imatrix);
    batch(&mut lane, 0, [1.0, 2.0], &Arc::default()).unwrap();
    let found = entry(&lane, DOWN);
    assert_eq!(
        (found.sum2.as_slice(), sum(&found), found.counts.as_slice()),
        (&[26.0, 84.0][..], &[17.0, 34.0][..], &[48][..])
    );
}

#[test]
fn rows_of_experts_are_counted_by_the_device() {
    let mut lane = collector();
    lane.begin_batch(0);
    lane.begin_decode();
    lane.begin_node(1);
    let data = [0.0; 8];
    let product = routed("blk.0.ffn_up_exps.weight", 2, 7, 8, &packed(&data, [1, 1, 8, 1]));
    assert!(lane.asks(&product));
    let sums = Device { sums: [3.0, -4.0, 9.0, 16.0], counts: vec![5.0, 11.0], ..Device::default() };
    lane.evaluation.add_on_device(&product, |_| Ok(Box::new(sums))).unwrap();
    lane.end_batch().unwrap();
    let found = entry(&lane, "blk.0.ffn_up_exps.weight");
    assert_eq!((found.sum2.as_slice(), found.counts.as_slice()), (&[9.0, 16.0][..], &[5, 11][..]));
    let experts = lane.collector().experts().unwrap();
    assert_eq!((experts.total, experts.unseen, experts.least), (2, 0, 5));
}

/// Weights that read the same input are summed once. A device does not keep the sums before the last addition, so a
/// weight that then reads another input is an error, not a wrong sum.
#[test]
fn a_weight_that_parts_from_sums_on_a_device_is_an_error() {
    const Q: &str = "blk.0.attn_q.weight";
    const K: &str = "blk.0.attn_k.weight";
    let mut lane = collector();
    let data = [1.0; 32];
    let rows = packed(&data, [2, 16, 1, 1]);
    // The weights share sums on the host.
    evaluate(&mut lane, &[(dense(Q, 1, &rows), rows), (dense(K, 1, &rows), rows)]);
    lane.begin_decode();
    assert_eq!(lane.n_captures(), 1);
    lane.begin_node(1000);
    assert!(lane.asks(&dense(Q, 1, &rows)));
    lane.evaluation.add_on_device(&dense(Q, 1, &rows), |_| Ok(Box::new(Device::default()))).unwrap();
    lane.begin_node(1001);
    let other = dense(K, 2, &rows);
    assert!(lane.asks(&other));
    assert_eq!(lane.add(&other, &rows, None), Err(Error::Parted { weight: K.to_owned() }));
}
