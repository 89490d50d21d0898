//! Importance matrices that break a rule, in GGUF and in the legacy format.

use llama_imatrix::gguf::{DType, Error as Gguf, Writer};
use llama_imatrix::imatrix::{Error, Imatrix};

#[test]
fn each_broken_rule_of_a_gguf_matrix_has_its_error() {
    let load = |w: &Writer<'_>| {
        let mut bytes = Vec::new();
        w.write_to(&mut bytes).unwrap();
        Imatrix::load_from(&bytes)
    };
    let entry = |sum2: &[u64], counts: Vec<f32>| {
        let mut w = Writer::new();
        w.f32_tensor("w.in_sum2", sum2, vec![1.0; sum2.iter().product::<u64>() as usize]).unwrap();
        w.f32_tensor("w.counts", &[1, counts.len() as u64], counts).unwrap();
        w
    };
    assert_error!(load(Writer::new().set("general.type", "model")).unwrap_err(), Error::NotImatrix(ref kind) if kind.to_string() == "a model");
    assert_error!(load(Writer::new().set("general.type", "imatrix")).unwrap_err(), Error::NoEntries);
    let typed = load(entry(&[4], vec![1.0]).set("imatrix.chunk_count", 1_u64)).unwrap_err();
    assert_error!(typed, Error::KeyType { key: "imatrix.chunk_count", found: "u64" });
    let lone = |name: &str| load(Writer::new().f32_tensor(name, &[1], vec![1.0]).unwrap()).unwrap_err();
    assert_error!(lone("w.in_sum2"), Error::MissingPart { part: ".counts", .. });
    assert_error!(lone("w.counts"), Error::MissingPart { part: ".in_sum2", .. });
    assert_error!(lone("w.in_sum"), Error::MissingPart { part: ".in_sum2", .. });
    let halves = load(entry(&[4], vec![1.0]).f16_tensor("w.in_sum", &[4], &[0.0; 4]).unwrap()).unwrap_err();
    assert_error!(halves, Error::PartType { part: ".in_sum", found: DType::F16, .. });
    for n in [3, 0] {
        let short = load(entry(&[4], vec![1.0]).f32_tensor("w.in_sum", &[n], vec![0.0; n as usize]).unwrap());
        assert_error!(short.unwrap_err(), Error::SumLengths { sum2: 4, .. });
    }
    assert_error!(load(&entry(&[5], vec![1.0; 2])).unwrap_err(), Error::Matrices { values: 5, counts: 2, .. });
    for bad in [-1.0, f32::NAN, f32::INFINITY, 1e16] {
        assert_error!(load(&entry(&[4], vec![1.0, bad])).unwrap_err(), Error::Count { index: 1, .. });
    }
    assert_eq!(load(&entry(&[4], vec![2.5])).unwrap().entries["w"].counts, [3]);
}

#[test]
fn each_broken_rule_of_a_legacy_matrix_has_its_error() {
    let numbers = |n: &[i32]| n.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let load = |n: &[i32]| Imatrix::load_from(&numbers(n)).unwrap_err();
    let name = i32::from_le_bytes(*b"name");
    for n in [0, -1, 2, i32::MAX] {
        assert_error!(load(&[n, 4, name, 1, 1]), Error::DatEntries { found, limit: 1 } if found == n);
    }
    for n in [-1, 1025] {
        assert_error!(load(&[1, n, name, 1, 1, 0]), Error::DatLength { what: "name length", found, .. } if found == n);
    }
    assert_error!(load(&[1, 4, name, -1, 1, 0]), Error::DatLength { what: "number of calls", found: -1, .. });
    for n in [0, -1] {
        assert_error!(load(&[1, 4, name, 1, n, 0]), Error::DatLength { what: "number of values", found, .. } if found == n);
    }
    assert_error!(
        load(&[1, 4, name, 1, i32::MAX, 0]),
        Error::Gguf(Gguf::Truncated { need: 0x1_ffff_fffc, left: 4, .. })
    );
    assert_error!(load(&[1, 4, -1, 1, 1, 0]), Error::DatName { entry: 1, .. });
    let entry = [4, name, 1, 1, 0];
    let twice: Vec<i32> = [&[2], &entry[..], &entry].concat();
    assert_error!(load(&twice), Error::DuplicateEntry(ref n) if n == "name");
    // Text that is no imatrix at all.
    let text = Imatrix::load_from(b"The quick brown fox jumps over the lazy dog.").unwrap_err();
    assert!(text.to_string().contains("neither a GGUF nor a legacy .dat"), "{text}");
}
