//! Writes, reads and merges states.

mod halves;
mod properties;
mod rules;
mod sample;

use std::borrow::Cow;
use std::path::PathBuf;

use super::*;
use crate::exact::ExactEntry;
use crate::imatrix::{Entry, Format};
use crate::perplexity::Perplexity;

const CHANNELS: usize = 5;
const ROWS: usize = 16;

fn fingerprint(accumulate: Accumulate) -> Fingerprint {
    Fingerprint {
        model: ModelFingerprint {
            architecture: "llama".into(),
            n_tensors: 3,
            n_bytes: 99,
            ..ModelFingerprint::default()
        },
        text: Digest([7; 32]),
        n_tokens: 160,
        chunk_size: ROWS as u32,
        n_batch: 16,
        n_ubatch: 16,
        accumulate,
        llama_cpp: "b1".into(),
        flags: [("process-output".to_owned(), "false".to_owned()), ("x".to_owned(), "a=b".to_owned())].into(),
        draft: None,
    }
}

/// Returns a row of chunk `chunk`, with values of a typical size for activations.
fn row(chunk: u64, row: usize) -> Vec<f32> {
    let seed = |channel: usize| (chunk * 1000 + (row * CHANNELS + channel) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..CHANNELS).map(|channel| (seed(channel) >> 40) as f32 / 1e6 - 8.0).collect()
}

/// Returns the sums of two weights that share them, those of a third that only odd chunks use, and the likelihoods.
fn collect(chunks: std::ops::Range<u64>) -> (ExactEntry, ExactEntry, Likelihoods) {
    let (mut shared, mut own) = (ExactEntry::zeros(CHANNELS, 1), ExactEntry::zeros(CHANNELS, 1));
    let mut likelihoods = Likelihoods::default();
    let starts: Vec<usize> = (0..ROWS).map(|row| row * CHANNELS).collect();
    for chunk in chunks {
        let data: Vec<f32> = (0..ROWS).flat_map(|i| row(chunk, i)).collect();
        shared.add_rows(0..CHANNELS, &data, &starts).unwrap();
        shared.counts[0] += ROWS as i64;
        if chunk % 2 == 1 {
            own.add_rows(0..CHANNELS, &data, &starts).unwrap();
            own.counts[0] += ROWS as i64;
        }
        let nlls: Vec<f64> = data.iter().take(7).map(|&x| f64::from(x).abs().sqrt()).collect();
        likelihoods.add(chunk, &nlls, true);
    }
    (shared, own, likelihoods)
}

fn state(chunks: std::ops::Range<u64>, shard: Shard) -> State<'static> {
    let (shared, own, likelihoods) = collect(chunks.clone());
    let mut progress =
        Progress { n_chunks: 10, shard, tokens: (chunks.end - chunks.start) * 16, ..Progress::default() };
    progress.chunk_count = (chunks.end - chunks.start) as i32;
    progress.done.insert(chunks);
    let group = |weights: &[&str], entry: &ExactEntry| Group {
        weights: weights.iter().map(|&weight| weight.to_owned()).collect(),
        entry: Cow::Owned(entry.clone()),
        even: None,
    };
    // A weight without rows has no sums.
    let mut groups = vec![group(&["blk.0.attn_k.weight", "blk.0.attn_q.weight"], &shared)];
    if own.counts != [0] {
        groups.push(group(&["blk.0.ffn_up.weight"], &own));
    }
    State {
        fingerprint: fingerprint(Accumulate::F64),
        progress,
        output: Output { datasets: vec!["text".into()], chunk_size: 16, ..Output::default() },
        likelihoods: Some(likelihoods),
        measurements: None,
        curve: Vec::new(),
        sample: None,
        sums: SharedSums::Exact(groups),
    }
}

fn bytes(state: &State<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.write(&mut bytes).unwrap();
    bytes
}

fn shards(ends: &[u64]) -> Vec<(PathBuf, State<'static>)> {
    let n = ends.len() as u64 - 1;
    let shard = |i: u64| state(ends[i as usize]..ends[i as usize + 1], Shard::new(i, n).unwrap());
    (0..n).map(|i| (PathBuf::from(format!("{i}.state")), shard(i))).collect()
}

fn merged(shards: Vec<(PathBuf, State<'static>)>) -> Result<State<'static>, MergeError> {
    let mut merger = Merger::default();
    shards.into_iter().try_for_each(|(path, state)| merger.add(&path, state))?;
    merger.finish()
}

#[test]
fn merged_shards_have_the_bytes_of_one_run() {
    let whole = state(0..10, Shard::WHOLE);
    for ends in [&[0, 10][..], &[0, 3, 6, 10], &[0, 1, 2, 3, 10], &[0, 0, 1, 10]] {
        for turn in 0..ends.len() - 1 {
            let mut shards = shards(ends);
            shards.rotate_left(turn);
            let merged = merged(shards).unwrap();
            assert_eq!(bytes(&merged), bytes(&whole), "{ends:?} {turn}");
            let written = |state: &State<'_>| {
                let mut bytes = Vec::new();
                state.to_imatrix().write(&mut bytes, Format::Gguf).unwrap();
                bytes
            };
            assert_eq!(written(&merged), written(&whole));
        }
    }
}

#[test]
fn weights_that_share_sums_in_one_shard_only_are_merged_separately() {
    let mut shards = shards(&[0, 4, 10]);
    let SharedSums::Exact(groups) = &mut shards[1].1.sums else { panic!() };
    let mut apart = groups[0].clone();
    groups[0].weights.pop();
    apart.weights.remove(0);
    apart.entry.to_mut().sum2[0] += 1;
    groups.push(apart);
    let forth = merged(shards.clone()).unwrap().to_imatrix();
    shards.reverse();
    assert_eq!(merged(shards).unwrap().to_imatrix(), forth);
    let SharedSums::Exact(groups) = &state(0..10, Shard::WHOLE).sums else { panic!() };
    assert_eq!(forth.entries["blk.0.attn_k.weight"], groups[0].entry.round());
    assert_eq!(forth.entries.len(), 3);
}

#[test]
fn gaps_overlaps_and_states_of_other_runs_are_refused_by_name() {
    let message = |shards| merged(shards).unwrap_err().to_string();
    let all = || shards(&[0, 3, 6, 10]);
    assert_eq!(message(vec![]), "no state files to merge");
    let mut gap = all();
    gap.remove(1);
    assert_eq!(message(gap), "chunks 4-6 of 10 are in none of the files; there is no state of shard 1/3");
    let mut cut = all();
    cut[2].1.progress.done = ChunkSet::default();
    cut[2].1.progress.done.insert(6..8);
    let found = message(cut);
    assert!(found.starts_with("chunks 9-10 of 10 are in none of the files; 0.state has 1-3, "), "{found}");
    let twice = [all(), all()].concat();
    assert_eq!(message(twice), "0.state and 0.state both hold chunks 1-3");
    let mut overlap = all();
    overlap[1].1.progress.done.insert(2..6);
    assert_eq!(message(overlap), "0.state and 1.state both hold chunks 3");
    let with = |change: fn(&mut State<'static>)| {
        let mut shards = all();
        change(&mut shards[1].1);
        message(shards)
    };
    let context = with(|state| state.fingerprint.chunk_size = 32);
    assert_eq!(context, "0.state and 1.state are of different runs: the context size is 16 before, 32 now");
    let datasets = with(|state| state.output.datasets.push("more".into()));
    assert_eq!(datasets, "0.state and 1.state differ in datasets: [\"text\"] and [\"text\", \"more\"]");
    assert!(with(|state| state.progress.n_chunks = 11).contains("number of chunks: 10 and 11"));
    assert!(with(|state| state.likelihoods = None).contains("perplexity: computed and not computed"));
    assert!(
        with(|state| state.output.base = Some(Digest([1; 32]))).starts_with("1.state: it was started with --in-file")
    );
    assert!(with(|state| state.likelihoods.as_mut().unwrap().tokens.clear()).contains("not collected as a shard"));
    assert!(with(|state| state.sums = SharedSums::F32(vec![])).starts_with("1.state: its sums are f32"));
    let sizes = with(|state| {
        let SharedSums::Exact(groups) = &mut state.sums else { panic!() };
        groups[0].entry = Cow::Owned(ExactEntry::zeros(2, 1));
    });
    assert_eq!(sizes, "1.state: weight 'blk.0.attn_k.weight': 2 values, expected 5");
}

fn f32_state<'a>(entry: &'a Entry, other: &'a Entry) -> State<'a> {
    State {
        fingerprint: fingerprint(Accumulate::F32),
        sums: SharedSums::f32([("b", entry), ("c", other), ("a", entry)]),
        likelihoods: Some(Likelihoods { running: Perplexity::from_parts(1.5, f64::NAN, 7), ..Likelihoods::default() }),
        curve: Vec::new(),
        ..state(0..4, Shard::WHOLE)
    }
}

#[test]
fn a_state_is_read_as_written_and_shared_sums_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.state");
    let mut exact = state(2..5, Shard::new(1, 4).unwrap());
    exact.fingerprint.draft = Some(ModelFingerprint { architecture: "draft".into(), ..ModelFingerprint::default() });
    exact.output.base = Some(Digest([0xfe; 32]));
    exact.progress.discarded.insert(3..4);
    exact.save(&path).unwrap();
    assert_eq!(State::load(&path).unwrap(), exact);
    assert_eq!(std::fs::read(&path).unwrap(), bytes(&exact));

    let one = Entry { sum2: vec![1.5; 1000], sum: Some(vec![-0.0; 1000]), counts: vec![1 << 60] };
    let two = Entry { sum: None, ..one.clone() };
    let state = f32_state(&one, &two);
    let saved = State::load_from(&bytes(&state)).unwrap();
    let SharedSums::F32(groups) = &saved.sums else { panic!() };
    assert_eq!(groups.iter().map(|group| group.weights.concat()).collect::<Vec<_>>(), ["ab", "c"]);
    assert_eq!(saved.to_imatrix().entries["b"], one);
    // NaN and -0 keep their bits.
    assert_eq!(bytes(&saved), bytes(&state));
    assert!(bytes(&state).len() < 3 * 4000 + 4000, "three weights, two entries, one of them without sums");
}

#[test]
fn every_truncation_and_every_changed_byte_is_reported_as_damage() {
    let whole = bytes(&state(0..2, Shard::new(0, 5).unwrap()));
    for length in 0..whole.len() {
        let error = State::load_from(&whole[..length]).unwrap_err();
        match length {
            0..4 => assert!(matches!(error, Error::NotState(_)), "{length}: {error}"),
            _ => assert!(matches!(error, Error::Incomplete { .. }), "{length}: {error}"),
        }
    }
    for at in (0..whole.len()).flat_map(|byte| [byte * 8 + 1, byte * 8 + 6]) {
        let mut bytes = whole.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        let error = State::load_from(&bytes).unwrap_err();
        let told = matches!(error, Error::Incomplete { .. } | Error::Checksum { .. } | Error::NotState(_));
        assert!(told, "bit {at}: {error}");
    }
}

#[test]
fn files_of_other_kinds_and_versions_are_refused() {
    let mut imatrix = Vec::new();
    state(0..2, Shard::WHOLE).to_imatrix().write(&mut imatrix, Format::Gguf).unwrap();
    let error = State::load_from(&imatrix).unwrap_err().to_string();
    assert_eq!(error, "not a state file: 'general.type' is \"imatrix\", expected \"imatrix-state\"");
    assert!(matches!(State::load_from(b"text"), Err(Error::NotState(_))));
    let mut newer = bytes(&state(0..2, Shard::WHOLE));
    let at = newer.windows(13).position(|window| window == b"state.version").unwrap() + 13 + 4;
    newer[at] = 2;
    reseal(&mut newer);
    assert!(matches!(State::load_from(&newer), Err(Error::Version(2))));
}
