//! Whatever can be written comes back.

use std::collections::BTreeMap;

use llama_imatrix::imatrix::{ChunkSizes, Entry, Format, Imatrix};
use proptest::prelude::*;

/// Any number; -0 becomes 0, as when files are added to zeros.
fn number() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![
        any::<f32>().prop_filter("not a NaN", |x: &f32| !x.is_nan()),
        Just(f32::INFINITY),
        Just(0.0),
        Just(f32::MAX)
    ]
    .prop_map(|x| x + 0.0)
}

/// An entry with as many counts as matrices; counts are whole numbers that f32 holds.
fn entry() -> impl Strategy<Value = Entry> {
    (1_usize..9, 1_usize..4, any::<bool>()).prop_flat_map(|(channels, matrices, with_sum)| {
        let values = prop::collection::vec(number(), channels * matrices);
        let counts = prop::collection::vec(0_i64..1 << 24, matrices);
        (values.clone(), values, counts).prop_map(move |(sum2, sum, counts)| Entry {
            sum2,
            sum: with_sum.then_some(sum),
            counts,
        })
    })
}

fn imatrix() -> impl Strategy<Value = Imatrix> {
    let entries = prop::collection::btree_map("[a-z0-9._]{1,55}", entry(), 1..5);
    let datasets = prop::collection::vec("[^\0]{0,20}", 0..4);
    (entries, datasets, 1_i32.., 0_i32..100).prop_map(|(entries, datasets, chunk_size, n_layer_nextn)| Imatrix {
        entries,
        datasets,
        chunk_count: 0,
        chunk_size,
        n_layer_nextn,
        ..Imatrix::default()
    })
}

fn written(imatrix: &Imatrix, format: Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    imatrix.write(&mut bytes, format).unwrap();
    bytes
}

proptest! {
    #[test]
    fn gguf_files_round_trip(imatrix in imatrix()) {
        // Files are grouped by what their names end in: a weight named like a part would be taken for one.
        prop_assume!(!imatrix.entries.keys().any(|name| name.contains(".in_sum") || name.contains(".counts")));
        let bytes = written(&imatrix, Format::Gguf);
        let loaded = Imatrix::load_from(&bytes).unwrap();
        prop_assert_eq!(&loaded.entries, &imatrix.entries);
        prop_assert_eq!(&loaded.datasets, &imatrix.datasets);
        prop_assert_eq!((loaded.chunk_size, loaded.n_layer_nextn), (imatrix.chunk_size, imatrix.n_layer_nextn));
        let mut merged = Imatrix::default();
        merged.merge(&loaded, ChunkSizes { run: 7, legacy: 7 }).unwrap();
        merged.chunk_count = 0;
        prop_assert!(written(&merged, Format::Gguf) == bytes);
    }

    #[test]
    fn dat_files_round_trip(imatrix in imatrix()) {
        let seen: BTreeMap<_, _> =
            imatrix.entries.iter().filter(|(_, entry)| entry.counts.iter().any(|&count| count > 0)).collect();
        prop_assume!(!seen.is_empty());
        let loaded = Imatrix::load_from(&written(&imatrix, Format::Dat)).unwrap();
        prop_assert!(loaded.is_legacy);
        prop_assert!(loaded.entries.keys().eq(seen.keys().copied()));
        prop_assert_eq!(loaded.datasets.last(), imatrix.datasets.last().filter(|name| !name.is_empty()));
        for (name, entry) in seen {
            let read = &loaded.entries[name];
            let calls = (entry.counts.iter().max().unwrap() + i64::from(imatrix.chunk_size) - 1) / i64::from(imatrix.chunk_size);
            prop_assert_eq!(&read.counts, &vec![calls]);
            let row = entry.sum2.len() / entry.counts.len();
            for (i, (&found, &sum)) in read.sum2.iter().zip(&entry.sum2).enumerate() {
                let count = entry.counts[i / row];
                let average = if count == 0 { 1.0 } else { sum / count as f32 };
                prop_assert_eq!(found.to_bits(), (average * calls as f32).to_bits());
            }
        }
    }
}
