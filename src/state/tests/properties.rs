//! Any state is read as it was written.

use proptest::prelude::*;

use super::*;

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
            // Equal numbers per chunk, or different ones, some of them 0.
            let n = |chunk: u64| if narrow % 2 == 0 { 2 } else { (chunk % 4) as usize };
            let nlls = |chunk: u64| [0.5, chunk as f64, 1.0];
            done.iter().for_each(|chunk| likelihoods.add(chunk, &nlls(chunk)[..n(chunk)], kept));
            let mut narrowed = ChunkSet::default();
            narrowed.insert(1..narrow.into());
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
                    discarded: done.intersection(&narrowed),
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
                measurements: None,
                curve: Vec::new(),
                sample: None,
                sums: SharedSums::F32(Vec::new()),
            }
        },
    )
}

proptest! {
    #[test]
    fn any_state_is_read_as_it_was_written(
        header in any_header(),
        floats in prop::collection::btree_map("[a-z.]{1,70}", any_entry(), 0..4),
        exacts in prop::collection::btree_map(".{1,9}", any_exact(), 0..4),
    ) {
        let mut header = header;
        for kind in [Accumulate::F32, Accumulate::F64] {
            header.fingerprint.accumulate = kind;
            header.sums = match kind {
                Accumulate::F32 => SharedSums::f32(floats.iter().map(|(name, entry)| (name.as_str(), entry))),
                Accumulate::F64 => SharedSums::exact(exacts.iter().map(|(name, entry)| (name.as_str(), entry))),
            };
            let written = bytes(&header);
            let read = State::load_from(&written).unwrap();
            prop_assert_eq!(&bytes(&read), &written);
            prop_assert_eq!(&read.progress, &header.progress);
            prop_assert_eq!(&read.fingerprint, &header.fingerprint);
            prop_assert_eq!(&read.output, &header.output);
            prop_assert_eq!(&read.likelihoods, &header.likelihoods);
            if kind == Accumulate::F64 { // f32 sums may be NaN: compared as bytes above
                prop_assert_eq!(&read.sums, &header.sums);
            }
        }
    }
}
