use std::borrow::Cow;
use std::path::PathBuf;

use proptest::prelude::*;

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

/// A row of chunk `chunk`, of the sizes that activations have.
fn row(chunk: u64, row: usize) -> Vec<f32> {
    let seed = |channel: usize| (chunk * 1000 + (row * CHANNELS + channel) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..CHANNELS).map(|channel| (seed(channel) >> 40) as f32 / 1e6 - 8.0).collect()
}

/// Two weights that share their sums, and a third that only odd chunks reach.
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
    };
    // Where no row came to `own`, it has no sums.
    let mut groups = vec![group(&["blk.0.attn_k.weight", "blk.0.attn_q.weight"], &shared)];
    if own.counts != [0] {
        groups.push(group(&["blk.0.ffn_up.weight"], &own));
    }
    State {
        fingerprint: fingerprint(Accumulate::F64),
        progress,
        output: Output { datasets: vec!["text".into()], chunk_size: 16, ..Output::default() },
        likelihoods: Some(likelihoods),
        sums: Sums::Exact(groups),
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
fn merged_shards_are_the_one_run_to_the_byte() {
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
fn weights_that_share_sums_in_one_shard_only_are_kept_apart() {
    let mut shards = shards(&[0, 4, 10]);
    let Sums::Exact(groups) = &mut shards[1].1.sums else { panic!() };
    let mut apart = groups[0].clone();
    groups[0].weights.pop();
    apart.weights.remove(0);
    apart.entry.to_mut().sum2[0] += 1;
    groups.push(apart);
    let forth = merged(shards.clone()).unwrap().to_imatrix();
    shards.reverse();
    assert_eq!(merged(shards).unwrap().to_imatrix(), forth);
    let Sums::Exact(groups) = &state(0..10, Shard::WHOLE).sums else { panic!() };
    assert_eq!(forth.entries["blk.0.attn_k.weight"], groups[0].entry.round());
    assert_eq!(forth.entries.len(), 3);
}

#[test]
fn gaps_overlaps_and_strangers_are_refused_by_name() {
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
    assert!(with(|state| state.sums = Sums::F32(vec![])).starts_with("1.state: its sums are f32"));
    let sizes = with(|state| {
        let Sums::Exact(groups) = &mut state.sums else { panic!() };
        groups[0].entry = Cow::Owned(ExactEntry::zeros(2, 1));
    });
    assert_eq!(sizes, "1.state: weight 'blk.0.attn_k.weight': 2 values, expected 5");
}

fn f32_state<'a>(entry: &'a Entry, other: &'a Entry) -> State<'a> {
    State {
        fingerprint: fingerprint(Accumulate::F32),
        sums: Sums::f32([("b", entry), ("c", other), ("a", entry)]),
        likelihoods: Some(Likelihoods { running: Perplexity::from_parts(1.5, f64::NAN, 7), ..Likelihoods::default() }),
        ..state(0..4, Shard::WHOLE)
    }
}

#[test]
fn a_state_comes_back_and_shared_sums_are_stored_once() {
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
    let Sums::F32(groups) = &saved.sums else { panic!() };
    assert_eq!(groups.iter().map(|group| group.weights.concat()).collect::<Vec<_>>(), ["ab", "c"]);
    assert_eq!(saved.to_imatrix().entries["b"], one);
    // NaN and -0 are bits like others.
    assert_eq!(bytes(&saved), bytes(&state));
    assert!(bytes(&state).len() < 3 * 4000 + 4000, "three weights, two entries, one of them without sums");
}

#[test]
fn every_cut_and_every_changed_bit_is_told_as_damage() {
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
fn files_of_other_kinds_and_versions_are_told_apart() {
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

/// A file with one thing changed through the GGUF layer, its checksum right.
fn rewritten(
    change: impl Fn(&str, Value) -> Option<Value>,
    tensor: impl Fn(&str) -> Option<(DType, Vec<u64>)>,
) -> Error {
    let whole = bytes(&state(0..2, Shard::WHOLE));
    let file = gguf::File::from_bytes(&whole[..]).unwrap();
    let mut writer = gguf::Writer::new();
    for (key, value) in file.keys() {
        if let Some(value) = change(key, value.clone()) {
            writer.set(key, value);
        }
    }
    for t in file.tensors() {
        let (dtype, shape) = tensor(t.name).unwrap_or((t.dtype, t.shape.to_vec()));
        if let Some(bytes) = dtype.bytes_for(shape.iter().product()).filter(|_| shape != [0]) {
            let data = [t.data, &[0; 64]].concat();
            writer.tensor(t.name, dtype, &shape, data[..bytes as usize].to_vec()).unwrap();
        }
    }
    let mut out = Vec::new();
    writer.write_to(&mut out).unwrap();
    reseal(&mut out);
    State::load_from(&out).expect_err("a rule is broken")
}

use crate::gguf::{DType, Value};

#[test]
fn every_rule_has_its_error() {
    let all = |_: &str| None;
    let key = |name: &'static str, value: Option<Value>| {
        rewritten(move |key, old| if key == name { value.clone() } else { Some(old) }, all)
    };
    for name in [
        "state.version",
        "state.chunks",
        "state.done",
        "state.discarded",
        "state.shard",
        "state.tokens",
        "state.chunk_count",
        "imatrix.datasets",
        "imatrix.chunk_size",
        "imatrix.n_layer_nextn",
        "fingerprint.model.architecture",
        "fingerprint.model.tensors",
        "fingerprint.model.bytes",
        "fingerprint.model.layout",
        "fingerprint.model.sample",
        "fingerprint.text",
        "fingerprint.tokens",
        "fingerprint.chunk_size",
        "fingerprint.batch",
        "fingerprint.ubatch",
        "fingerprint.accumulate",
        "fingerprint.llama_cpp",
        "fingerprint.flags",
        "state.weights",
        "state.weight_sums",
        "perplexity.sum",
        "perplexity.sum_of_squares",
    ] {
        let missing = key(name, None);
        assert!(matches!(&missing, Error::Key { key, found, .. } if key == name && found == "missing"), "{missing}");
        let other = key(name, Some(Value::Bool(true)));
        assert!(matches!(&other, Error::Key { key, found, .. } if key == name && found == "Bool(true)"), "{other}");
    }
    let ranges = |ends: &[u64]| key("state.done", Some(ends.into()));
    for bad in [&[0_u64][..], &[2, 2], &[3, 1], &[0, 2, 2, 3], &[0, 5, 3, 6]] {
        assert!(matches!(ranges(bad), Error::Key { .. }));
    }
    assert!(matches!(ranges(&[0, 11]), Error::Chunks { set: "done", .. }));
    assert!(matches!(key("state.discarded", Some(vec![1_u64, 3].into())), Error::Chunks { set: "discarded", .. }));
    assert!(matches!(key("state.shard", Some(vec![2_u32, 2].into())), Error::Key { .. }));
    assert!(matches!(key("imatrix.chunk_size", Some(0_i32.into())), Error::ChunkSize(0)));
    assert!(matches!(key("fingerprint.text", Some("xyz".into())), Error::Key { .. }));
    assert!(matches!(key("fingerprint.accumulate", Some("f16".into())), Error::Key { .. }));
    assert!(matches!(key("fingerprint.accumulate", Some("f32".into())), Error::Tensor { .. }));
    assert!(matches!(key("fingerprint.flags", Some(vec!["no value"].into())), Error::Flag(_)));
    assert!(matches!(key("state.weights", Some(vec!["a"].into())), Error::Key { .. }));
    assert!(matches!(key("state.weights", Some(vec!["a", "b", "a"].into())), Error::DuplicateWeight(_)));
    let numbers = |n: [u32; 3]| key("state.weight_sums", Some(n.to_vec().into()));
    assert!(matches!(numbers([0, 0, u32::MAX]), Error::NoSums { found: u32::MAX, .. }));
    assert!(matches!(numbers([0, 2, 2]), Error::NoWeight(1)));
    assert!(matches!(numbers([0, 1, 2]), Error::Tensor { .. }));

    let tensor = |name: &'static str, dtype: DType, shape: &'static [u64]| {
        rewritten(|_, value| Some(value), move |found| (found == name).then(|| (dtype, shape.to_vec())))
    };
    for (name, dtype, shape) in [
        ("sums.0.in_sum2", DType::I64, &[0][..]), // left out
        ("sums.0.in_sum2", DType::F64, &[3, 5]),
        ("sums.0.in_sum2", DType::I64, &[15]),
        ("sums.0.in_sum2", DType::I64, &[3, 1, 5]),
        ("sums.0.in_sum", DType::I64, &[5, 2]),
        ("sums.0.counts", DType::F32, &[1]),
        ("sums.0.counts", DType::I64, &[1, 2]),
        ("perplexity.chunks", DType::I32, &[2]),
        ("perplexity.tokens", DType::I64, &[7, 2]),
        ("perplexity.tokens", DType::F64, &[2, 7]),
        ("perplexity.tokens", DType::F64, &[14]),
        ("perplexity.tokens", DType::F64, &[0]),
    ] {
        let error = tensor(name, dtype, shape);
        assert!(matches!(&error, Error::Tensor { name: found, .. } if found == name), "{name} {shape:?}: {error}");
    }
    assert!(matches!(tensor("sums.0.in_sum2", DType::I64, &[3, 4]), Error::Exact { .. }));
    assert!(matches!(tensor("sums.0.counts", DType::I64, &[2]), Error::Entry(_)));
    assert!(matches!(tensor("perplexity.chunks", DType::I64, &[1]), Error::Tensor { .. }));

    let broken = |change: fn(&mut State<'static>)| {
        let mut state = state(0..2, Shard::WHOLE);
        change(&mut state);
        state.write(std::io::sink()).expect_err("a rule is broken")
    };
    assert!(matches!(broken(|s| s.fingerprint.accumulate = Accumulate::F32), Error::Accumulate { .. }));
    assert!(matches!(
        broken(|s| {
            s.likelihoods.as_mut().unwrap().add(0, &[1.0], true);
        }),
        Error::Likelihoods(_)
    ));
    assert!(matches!(
        broken(|s| {
            s.likelihoods.as_mut().unwrap().add(7, &[1.0; 7], true);
        }),
        Error::Likelihoods(_)
    ));
    let broken_sums = |change: fn(&mut ExactEntry)| {
        let mut state = state(0..2, Shard::WHOLE);
        let Sums::Exact(groups) = &mut state.sums else { panic!() };
        change(groups[0].entry.to_mut());
        state.write(std::io::sink()).expect_err("a rule is broken")
    };
    assert!(matches!(broken_sums(|entry| entry.counts[0] = -1), Error::Count { found: -1, .. }));
    assert!(matches!(broken_sums(|entry| entry.sum2[5] = -1), Error::Exact { .. }));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (1_usize..5, 1_usize..4, any::<bool>()).prop_flat_map(|(channels, matrices, with_sum)| {
        let values = prop::collection::vec(any::<u32>().prop_map(f32::from_bits), channels * matrices);
        let counts = prop::collection::vec(0..=i64::MAX, matrices);
        (values.clone(), values, counts).prop_map(move |(sum2, sum, counts)| Entry {
            sum2,
            sum: with_sum.then_some(sum),
            counts,
        })
    })
}

fn any_exact() -> impl Strategy<Value = ExactEntry> {
    (1_usize..5, any::<bool>()).prop_flat_map(|(values, with_sum)| {
        let squares = prop::collection::vec((any::<i64>(), any::<i64>(), 0..=i64::MAX), values);
        let sums = prop::collection::vec(any::<[i64; 2]>(), values);
        (squares, sums, 0..=i64::MAX).prop_map(move |(squares, sums, count)| ExactEntry {
            sum2: squares.into_iter().flat_map(|(a, b, c)| [a, b, c]).collect(),
            sum: with_sum.then(|| sums.into_flattened()),
            counts: vec![count],
        })
    })
}

fn any_header() -> impl Strategy<Value = State<'static>> {
    let ends = prop::collection::btree_set(0..1000_u64, 0..8);
    let flags = prop::collection::btree_map("[a-z-]{1,9}", ".{0,9}", 0..4);
    let numbers = (any::<u64>(), any::<u32>(), any::<i32>(), 1..=i32::MAX);
    let kept = any::<bool>();
    (ends, flags, numbers, kept, prop::collection::vec(".{0,9}", 0..3), any::<[u8; 32]>()).prop_map(
        |(ends, flags, (wide, narrow, signed, size), kept, datasets, hash)| {
            let ends: Vec<u64> = ends.into_iter().collect();
            let done =
                ChunkSet::from_sorted(ends.as_chunks::<2>().0.iter().map(|&[a, b]| a..b).collect()).unwrap_or_default();
            let mut likelihoods = Likelihoods::default();
            done.iter().for_each(|chunk| likelihoods.add(chunk, &[0.5, chunk as f64], kept));
            let model = ModelFingerprint {
                architecture: format!("{narrow}"),
                n_tensors: wide,
                n_bytes: wide / 3,
                layout: Digest(hash),
                sample: Digest(hash),
            };
            State {
                fingerprint: Fingerprint {
                    draft: kept.then(|| model.clone()),
                    model,
                    text: Digest(hash),
                    n_tokens: wide,
                    chunk_size: narrow,
                    n_batch: narrow / 2,
                    n_ubatch: narrow / 3,
                    accumulate: Accumulate::F32,
                    llama_cpp: format!("b{signed}"),
                    flags,
                },
                progress: Progress {
                    n_chunks: 1000,
                    discarded: done.intersection(&ChunkSet::from_sorted(vec![1..narrow.max(2).into()]).unwrap()),
                    done,
                    shard: Shard::new(u64::from(narrow / 2), narrow.max(1).into()).unwrap(),
                    tokens: wide,
                    chunk_count: signed,
                },
                output: Output {
                    datasets,
                    chunk_size: size,
                    n_layer_nextn: signed,
                    base: kept.then_some(Digest(hash)),
                },
                likelihoods: Some(likelihoods),
                sums: Sums::F32(Vec::new()),
            }
        },
    )
}

proptest! {
    #[test]
    fn any_state_comes_back_as_it_was(
        header in any_header(),
        floats in prop::collection::btree_map("[a-z.]{1,70}", any_entry(), 0..4),
        exacts in prop::collection::btree_map(".{1,9}", any_exact(), 0..4),
    ) {
        let mut header = header;
        for kind in [Accumulate::F32, Accumulate::F64] {
            header.fingerprint.accumulate = kind;
            header.sums = match kind {
                Accumulate::F32 => Sums::f32(floats.iter().map(|(name, entry)| (name.as_str(), entry))),
                Accumulate::F64 => Sums::exact(exacts.iter().map(|(name, entry)| (name.as_str(), entry))),
            };
            let written = bytes(&header);
            let read = State::load_from(&written).unwrap();
            prop_assert_eq!(&bytes(&read), &written);
            prop_assert_eq!(&read.progress, &header.progress);
            prop_assert_eq!(&read.fingerprint, &header.fingerprint);
            prop_assert_eq!(&read.output, &header.output);
            prop_assert_eq!(&read.likelihoods, &header.likelihoods);
            if kind == Accumulate::F64 { // f32 has NaN, which the bytes above have compared
                prop_assert_eq!(&read.sums, &header.sums);
            }
        }
    }
}
