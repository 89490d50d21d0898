//! States with the even half of each weight's sums.

use super::*;
use crate::convergence::{Half, Point};

fn even(seed: u64, counts: i64) -> Half {
    Half { sum2: (0..CHANNELS as u64).map(|channel| (seed * 7 + channel) as f64 / 3.0).collect(), counts: vec![counts] }
}

fn point() -> Point {
    let (cosine, median_cosine) = (0.987_654_321, 0.999_9);
    Point {
        chunks: 1,
        tokens: 16,
        cosine,
        weight: "blk.0.attn_q.weight".into(),
        median_cosine,
        relative_error: 0.123_456_789,
    }
}

/// A state with halves of `rows` rows, and a curve.
fn with_halves(chunks: std::ops::Range<u64>, shard: Shard, rows: i64) -> State<'static> {
    let mut state = state(chunks, shard);
    let SharedSums::Exact(groups) = &mut state.sums else { panic!() };
    for (group, seed) in groups.iter_mut().zip(1..) {
        group.even = Some(Cow::Owned(even(seed, rows)));
    }
    state.curve = vec![point()];
    state
}

#[test]
fn halves_and_curve_are_read_as_written() {
    let state = with_halves(0..2, Shard::WHOLE, 8);
    let read = State::load_from(&bytes(&state)).unwrap();
    assert_eq!(read, state);
    assert!(read.has_halves() && read.convergence().is_some_and(|found| found.weights.len() == 3));
    // Weights that share sums share the half.
    let file = bytes(&state);
    let file = gguf::File::from_bytes(&file[..]).unwrap();
    assert_eq!(file.tensors().filter(|tensor| tensor.name.starts_with("even.")).count(), 4);
}

#[test]
fn halves_that_do_not_fit_are_refused() {
    let refused = |change: fn(&mut Half)| {
        let mut state = with_halves(0..2, Shard::WHOLE, 8);
        let SharedSums::Exact(groups) = &mut state.sums else { panic!() };
        change(groups[1].even.as_mut().unwrap().to_mut());
        state.write(std::io::sink()).expect_err("the broken rule is an error")
    };
    let rules: [fn(&mut Half); 5] = [
        |half| half.counts[0] = 1000,
        |half| half.counts[0] = -1,
        |half| half.counts.push(1),
        |half| half.sum2.truncate(1),
        |half| half.sum2[0] = f64::INFINITY,
    ];
    for rule in rules {
        let error = refused(rule);
        assert!(matches!(&error, Error::Half(weight) if weight == "blk.0.ffn_up.weight"), "{error}");
    }
}

#[test]
fn halves_of_shards_add_up_and_a_shard_without_them_leaves_none() {
    let shard = |index| Shard::new(index, 2).unwrap();
    let merge = |second: State<'static>| {
        merged(vec![("a".into(), with_halves(0..4, shard(0), 8)), ("b".into(), second)]).unwrap()
    };
    let found = merge(with_halves(4..10, shard(1), 16));
    let SharedSums::Exact(groups) = &found.sums else { panic!() };
    let half = groups[0].even.as_deref().unwrap();
    assert_eq!((half.counts[0], half.sum2[0]), (24, 2.0 * 7.0 / 3.0));
    assert!(found.curve.is_empty(), "the curve of a shard is not that of the run");
    let found = merge(state(4..10, shard(1)));
    assert!(!found.has_halves() && found.convergence().is_none());
}
