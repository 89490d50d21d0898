//! The even half of the batches: what it is, and that the sums of all do not change by it.

use super::super::Snapshot;
use super::lanes::{BATCHES, input, run_batch};
use super::*;
use crate::sums::Half;

fn options(accumulate: Accumulate, convergence: bool) -> CollectorOptions {
    CollectorOptions { chunk_size: 16, accumulate, convergence, ..CollectorOptions::default() }
}

/// Collects these batches of the text, in order.
fn collect(options: &CollectorOptions, batches: impl Iterator<Item = usize>) -> Snapshot {
    let collector = Collector::new(options);
    let mut lane = collector.lane();
    for (index, number) in batches.enumerate() {
        run_batch(&mut lane, index, number, true).unwrap();
    }
    collector.snapshot()
}

/// Returns the even half and the odd half of each weight.
fn halves(snapshot: &Snapshot) -> Vec<(&str, Half, Half)> {
    let halves = snapshot.stored().map(|(weight, stored, even)| {
        let even = even.expect("the half was kept");
        (weight, even.clone(), stored.entry().odd_half(even))
    });
    halves.collect()
}

/// f32 sums round at each row, so a half is what it added to the sums of all, up to the rounding of these. Exact sums lose
/// nothing but what f64 rounds.
#[test]
fn each_half_is_a_run_over_its_batches_alone() {
    for (accumulate, bound) in [(Accumulate::F32, 2e-6), (Accumulate::F64, 1e-7)] {
        let all = collect(&options(accumulate, true), 0..BATCHES);
        let even = collect(&options(accumulate, false), (0..BATCHES).step_by(2));
        let odd = collect(&options(accumulate, false), (1..BATCHES).step_by(2));
        let halves = halves(&all);
        assert_eq!(halves.len(), even.entries().count());
        for (weight, found_even, found_odd) in halves {
            let whole = all.get(weight).unwrap();
            for (found, alone) in [(found_even, &even), (found_odd, &odd)] {
                let alone = alone.get(weight).unwrap();
                assert_eq!(found.counts, alone.counts, "{weight}");
                for ((&found, &alone), &whole) in found.sum2.iter().zip(&alone.sum2).zip(&whole.sum2) {
                    let difference = (found - f64::from(alone)).abs();
                    assert!(difference <= bound * f64::from(whole), "{weight}: {found}, alone {alone}, all {whole}");
                }
            }
        }
    }
}

/// With squares that f32 adds exactly, the halves are those of separate runs to the bit.
#[test]
fn halves_of_exact_numbers_are_those_of_separate_runs_to_the_bit() {
    let run = |batches: &[usize], convergence: bool| {
        let collector = Collector::new(&options(Accumulate::F32, convergence));
        let mut lane = collector.lane();
        for (index, &number) in batches.iter().enumerate() {
            let data: Vec<f32> = input(number, 3).iter().map(|x| x.trunc().clamp(-99.0, 99.0)).collect();
            let rows = packed(&data, [2, 16, 1, 1]);
            lane.begin_numbered_batch(index, number);
            evaluate(&mut lane, &[(dense("blk.0.ffn_up.weight", 1, &rows), rows)]);
            lane.end_batch().unwrap();
        }
        collector.snapshot()
    };
    let all = run(&[0, 1, 2, 3, 4, 5, 6], true);
    let (even, odd) = (run(&[0, 2, 4, 6], false), run(&[1, 3, 5], false));
    let (_, found_even, found_odd) = halves(&all).remove(0);
    for (found, alone) in [(found_even, even), (found_odd, odd)] {
        let alone = alone.get("blk.0.ffn_up.weight").unwrap().into_owned();
        let alone = Half { sum2: alone.sum2.iter().copied().map(f64::from).collect(), counts: alone.counts };
        assert_eq!(found, alone);
    }
}

#[test]
fn the_sums_of_all_have_the_bits_of_a_run_without_halves() {
    for accumulate in [Accumulate::F32, Accumulate::F64] {
        let [with, without] = [true, false].map(|convergence| collect(&options(accumulate, convergence), 0..BATCHES));
        assert!(with.stored().map(|(w, s, _)| (w, s)).eq(without.stored().map(|(w, s, _)| (w, s))));
        assert!(with.convergence().is_some() && without.convergence().is_none());
    }
}

/// A resumed run counts its batches from 0 again, and goes on with the text's numbers. One that lacks a discarded batch,
/// too.
#[test]
fn a_run_that_was_interrupted_has_the_halves_of_one_that_was_not() {
    for accumulate in [Accumulate::F32, Accumulate::F64] {
        for stopped_after in 1..6 {
            let options = options(accumulate, true);
            let batches = || (0..12).filter(|&batch| batch != 7);
            let first = collect(&options, batches().take(stopped_after));
            let collector = Collector::new(&options);
            collector.start_from(Earlier::from_state(first.sums(accumulate), first.chunks));
            let mut lane = collector.lane();
            for (index, number) in batches().skip(stopped_after).enumerate() {
                run_batch(&mut lane, index, number, true).unwrap();
            }
            let whole = collect(&options, batches());
            assert!(whole.stored().eq(collector.snapshot().stored()), "{accumulate}, after {stopped_after}");
        }
    }
}

#[test]
fn earlier_sums_without_halves_leave_a_run_without_them() {
    let earlier = collect(&options(Accumulate::F32, false), 0..2);
    let collector = Collector::new(&options(Accumulate::F32, true));
    let earlier = Earlier::from_state(earlier.sums(Accumulate::F32), 2);
    assert!(!earlier.has_halves() && Earlier::nothing().has_halves());
    collector.start_from(earlier);
    run_batch(&mut collector.lane(), 0, 2, true).unwrap();
    assert_eq!(collector.snapshot().convergence(), None);
}
