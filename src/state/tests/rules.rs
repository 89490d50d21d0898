//! Each broken rule gives its error.

use super::*;
use crate::gguf::{DType, Value};

/// Reads a file with changed keys or tensors and a correct checksum, and returns the error.
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
    State::load_from(&out).expect_err("the broken rule is an error")
}

#[test]
fn keys_have_their_types_and_ranges() {
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
}

#[test]
fn tensors_have_their_types_and_shapes() {
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
}

#[test]
fn the_writer_checks_the_rules_too() {
    let broken = |change: fn(&mut State<'static>)| {
        let mut state = state(0..2, Shard::WHOLE);
        change(&mut state);
        state.write(std::io::sink()).expect_err("the broken rule is an error")
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
        let SharedSums::Exact(groups) = &mut state.sums else { panic!() };
        change(groups[0].entry.to_mut());
        state.write(std::io::sink()).expect_err("the broken rule is an error")
    };
    assert!(matches!(broken_sums(|entry| entry.counts[0] = -1), Error::Count { found: -1, .. }));
    assert!(matches!(broken_sums(|entry| entry.sum2[5] = -1), Error::Exact { .. }));
}

/// Chunks of documents differ in their number of likelihoods.
#[test]
fn lengths_of_likelihoods_are_checked() {
    let mut ragged = state(0..2, Shard::WHOLE);
    let mut likelihoods = Likelihoods::default();
    likelihoods.add(0, &[1.0; 7], true);
    likelihoods.add(1, &[2.0; 3], true);
    ragged.likelihoods = Some(likelihoods.clone());
    let whole = bytes(&ragged);
    assert_eq!(State::load_from(&whole).unwrap().likelihoods, Some(likelihoods));
    let file = gguf::File::from_bytes(&whole[..]).unwrap();
    let lengths = file.tensor("perplexity.lengths").unwrap().data;
    let place = lengths.as_ptr() as usize - whole.as_ptr() as usize;
    for bad in [[7_i64, 4], [0, 10], [-1, 11], [i64::MAX, i64::MAX], [7, i64::MIN]] {
        let mut out = whole.clone();
        out[place..place + 16].copy_from_slice(bad.map(i64::to_le_bytes).as_flattened());
        reseal(&mut out);
        assert!(matches!(State::load_from(&out), Err(Error::Likelihoods(_))), "{bad:?}");
    }
}
