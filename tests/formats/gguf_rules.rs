//! GGUF files that break a rule, modelled on the rules of ggml's `gguf.cpp` and its hand-made cases.

use llama_imatrix::gguf::{Array, DType, Error as Gguf, File, Value, Writer};

/// A GGUF file written field by field, so that each can be wrong.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn bytes(mut self, b: &[u8]) -> Self {
        self.0.extend(b);
        self
    }

    fn u32(self, n: u32) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    fn u64(self, n: u64) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    fn text(self, s: &[u8]) -> Self {
        self.u64(s.len() as u64).bytes(s)
    }

    /// A key with a u32 value.
    fn key(self, key: &[u8]) -> Self {
        self.text(key).u32(4).u32(7)
    }

    fn tensor(self, name: &str, shape: &[u64], dtype: u32, offset: u64) -> Self {
        let named = self.text(name.as_bytes()).u32(shape.len() as u32);
        shape.iter().fold(named, |raw, &n| raw.u64(n)).u32(dtype).u64(offset)
    }

    /// Zeros: as padding, as data, and so that no count fails for lack of bytes.
    fn zeros(mut self, n: usize) -> Self {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    fn error(self) -> Gguf {
        File::from_bytes(self.0).expect_err("a rule is broken")
    }
}

#[test]
fn each_broken_rule_of_the_header_has_its_error() {
    let with_version = |v: u32| Raw(b"GGUF".to_vec()).u32(v).zeros(64).error();
    assert_error!(Raw(b"FUGG".to_vec()).zeros(64).error(), Gguf::Magic(m) if m == *b"FUGG");
    for v in [0, 1, 4] {
        assert_error!(with_version(v), Gguf::Version(found) if found == v);
    }
    assert_error!(with_version(0x0300_0000), Gguf::ByteOrder(0x0300_0000));
    assert_error!(Raw::new(u64::MAX, 0).zeros(64).error(), Gguf::TensorCount { found: u64::MAX, limit: 2, .. });
    assert_error!(Raw::new(0, u64::MAX).zeros(64).error(), Gguf::KeyCount { found: u64::MAX, limit: 4, .. });
    assert!(File::from_bytes(Raw::new(0, 0).0).is_ok());
    let mut version_2 = Raw::new(0, 0).0;
    version_2[4] = 2;
    assert_eq!(File::from_bytes(version_2).unwrap().version(), 2);
}

#[test]
fn each_broken_rule_of_the_keys_has_its_error() {
    let one = || Raw::new(0, 1);
    assert_error!(one().u64(u64::MAX).zeros(64).error(), Gguf::StringLength { found: u64::MAX, what: "key", .. });
    assert_error!(one().u64(1 << 20).zeros(64).error(), Gguf::Truncated { what: "key", need: 0x10_0000, left: 64, .. });
    assert_error!(one().key(b"").zeros(64).error(), Gguf::EmptyKey { index: 0 });
    assert_error!(Raw::new(0, 2).key(b"k").key(b"k").error(), Gguf::DuplicateKey(ref k) if k == "k");
    for bad in [&b"\xff"[..], b"a\0b"] {
        assert_error!(one().key(bad).zeros(8).error(), Gguf::NameText { what: "key", .. });
    }
    assert_error!(one().text(b"k").u32(13).zeros(64).error(), Gguf::ValueType { found: 13, .. });
    assert_error!(one().text(b"k").u32(9).u32(9).u64(1).zeros(64).error(), Gguf::ValueType { found: 9, .. });
    assert_error!(one().text(b"k").u32(9).u32(77).u64(1).zeros(64).error(), Gguf::ValueType { found: 77, .. });
    let array = |element: u32, n: u64| one().text(b"k").u32(9).u32(element).u64(n).zeros(64).error();
    assert_error!(array(0, (1 << 30) + 1), Gguf::ArrayLength { .. });
    for element in [0, 7, 8, 10] {
        assert_error!(array(element, 1 << 30), Gguf::Truncated { left: 64, .. });
    }
    assert_error!(one().text(b"k").u32(8).u64(u64::MAX).zeros(64).error(), Gguf::StringLength { .. });
    // Text in values is shown, not trusted: replaced rather than refused.
    let file = File::from_bytes(one().text(b"k").u32(8).text(b"\xffx").0).unwrap();
    assert_eq!(file.get("k").and_then(Value::as_str), Some("\u{fffd}x"));
}

#[test]
fn each_broken_rule_of_the_alignment_has_its_error() {
    let aligned = |id: u32, n: u32| Raw::new(1, 1).text(b"general.alignment").u32(id).u32(n);
    let tensor = |raw: Raw| raw.tensor("t", &[1], 24, 0);
    assert_error!(tensor(aligned(5, 32)).zeros(64).error(), Gguf::AlignmentType("i32"));
    for n in [0, 13] {
        assert_error!(tensor(aligned(4, n)).zeros(64).error(), Gguf::Alignment(found) if found == n);
    }
    assert_error!(tensor(aligned(4, 1 << 31)).zeros(64).error(), Gguf::Truncated { .. });
    let file = File::from_bytes(tensor(aligned(4, 1)).bytes(&[5]).0).unwrap();
    assert_eq!((file.alignment(), file.tensor("t").unwrap().data), (1, &[5_u8][..]));
}

#[test]
fn each_broken_rule_of_the_tensors_has_its_error() {
    let one = |shape: &[u64], dtype: u32, offset: u64| Raw::new(1, 0).tensor("t", shape, dtype, offset).zeros(256);
    let named = |name: &str| Raw::new(1, 0).tensor(name, &[1], 0, 0).zeros(256);
    assert_error!(named(&"x".repeat(64)).error(), Gguf::NameLength { ref name } if name.len() == 64);
    assert!(File::from_bytes(named(&"x".repeat(63)).0).is_ok());
    let twice = Raw::new(2, 0).tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).zeros(256);
    assert_error!(twice.error(), Gguf::DuplicateTensor(ref name) if name == "t");
    assert_error!(one(&[1; 5], 0, 0).error(), Gguf::Dimensions { found: 5, .. });
    let too_big = 4 * (i32::MAX as u64);
    for shape in [&[u64::MAX][..], &[1, u64::MAX], &[too_big, too_big], &[too_big, too_big, 0]] {
        assert_error!(one(shape, 0, 0).error(), Gguf::ShapeOverflow { .. });
    }
    // Elements fit, bytes do not.
    assert_error!(one(&[1 << 31, 1 << 31], 27, 0).error(), Gguf::ShapeOverflow { .. });
    // 2^64 - 16 bytes: padding them would wrap to nothing.
    assert_error!(one(&[4, (1 << 30) - 1, (1 << 30) + 1], 0, 0).error(), Gguf::Truncated { what: "tensor data", .. });
    for id in [4, 31, 43, u32::MAX] {
        assert_error!(one(&[32], id, 0).error(), Gguf::TensorType { found, .. } if found == id);
    }
    assert_error!(one(&[48], 2, 0).error(), Gguf::RowBlocks { row: 48, dtype: DType::Q4_0, .. });
    assert_error!(one(&[1], 0, 32).error(), Gguf::Offset { found: 32, expected: 0, .. });
    let unaligned = Raw::new(2, 0).tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 4).zeros(256);
    assert_error!(unaligned.error(), Gguf::Offset { found: 4, expected: 32, .. });
    assert_error!(one(&[1 << 20], 0, 0).error(), Gguf::Truncated { what: "tensor data", need: 0x40_0000, .. });

    let empty = File::from_bytes(one(&[32, 0], 2, 0).0).unwrap();
    let empty = empty.tensor("t").unwrap();
    assert_eq!((empty.elements(), empty.data.len()), (0, 0));
    let scalar = File::from_bytes(one(&[], 0, 0).0).unwrap();
    let scalar = scalar.tensor("t").unwrap();
    assert_eq!((scalar.n_dims, scalar.shape, scalar.to_f32()), (0, [1; 4], Some(vec![0.0])));
}

#[test]
fn the_writer_refuses_what_the_reader_rejects() {
    let mut w = Writer::new();
    assert_error!(w.f32_tensor("t", &[3], vec![0.0; 2]).unwrap_err(), Gguf::DataLength { found: 8, expected: 12, .. });
    assert_error!(w.tensor("t", DType::Q8_0, &[33], vec![]).unwrap_err(), Gguf::RowBlocks { .. });
    assert_error!(w.tensor("t", DType::F32, &[1; 5], vec![]).unwrap_err(), Gguf::Dimensions { .. });
    assert_error!(w.tensor("t", DType::I8, &[u64::MAX, 2], vec![]).unwrap_err(), Gguf::ShapeOverflow { .. });
    assert_error!(w.f32_tensor("x".repeat(64), &[1], vec![0.0]).unwrap_err(), Gguf::NameLength { .. });
    w.f32_tensor("t", &[1], vec![0.0]).unwrap();
    assert_error!(w.f32_tensor("t", &[1], vec![0.0]).unwrap_err(), Gguf::DuplicateTensor(_));
    assert_error!(Writer::new().set("", 1_u32).write_to(std::io::sink()).unwrap_err(), Gguf::EmptyKey { .. });
    let aligned = |v: Value| Writer::new().set("general.alignment", v).write_to(std::io::sink()).unwrap_err();
    assert_error!(aligned(3_u32.into()), Gguf::Alignment(3));
    assert_error!(aligned(32_i32.into()), Gguf::AlignmentType("i32"));
}

#[test]
fn every_value_and_type_survives_the_round_trip() {
    let values: Vec<Value> = vec![
        1_u8.into(),
        (-1_i8).into(),
        2_u16.into(),
        (-2_i16).into(),
        3_u32.into(),
        (-3_i32).into(),
        1.5_f32.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        (-2.5_f64).into(),
        true.into(),
        "grüße".into(),
        vec![1_u8, 2].into(),
        vec![-1_i8].into(),
        vec![1_u16, 2].into(),
        vec![-1_i16].into(),
        vec![1_u32, 2].into(),
        vec![-1_i32].into(),
        vec![0.5_f32; 3].into(),
        vec![1_u64].into(),
        vec![-1_i64].into(),
        vec![0.25_f64].into(),
        vec![true, false].into(),
        vec!["a", ""].into(),
        Array::String(vec![]).into(),
    ];
    let mut w = Writer::new();
    for (i, v) in values.iter().enumerate() {
        w.set(format!("k{i}"), v.clone());
    }
    w.set("general.alignment", 64_u32);
    for (i, &dtype) in DType::ALL.iter().enumerate() {
        let bytes = dtype.bytes_for(dtype.block_len() * 2).unwrap();
        let data: Vec<u8> = (0..bytes).map(|b| b as u8 ^ i as u8).collect();
        w.tensor(dtype.name(), dtype, &[dtype.block_len(), 2, 1, 1], data).unwrap();
    }
    w.f16_tensor("halves", &[2], &[0.1, -65504.0]).unwrap();
    let mut bytes = Vec::new();
    w.write_to(&mut bytes).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, &bytes).unwrap();
    for file in [File::open(&path).unwrap(), File::from_bytes(bytes).unwrap()] {
        for (i, v) in values.iter().enumerate() {
            assert_eq!(file.get(&format!("k{i}")), Some(v));
        }
        assert_eq!(file.keys().len(), values.len() + 1);
        for (i, (t, &dtype)) in file.tensors().zip(DType::ALL).enumerate() {
            assert_eq!(
                (t.name, t.dtype, t.n_dims, t.shape[..3].to_vec()),
                (dtype.name(), dtype, 2, vec![dtype.block_len(), 2, 1])
            );
            assert!(t.data.iter().enumerate().all(|(b, &x)| x == b as u8 ^ i as u8), "{dtype}");
        }
        let halves = file.tensor("halves").unwrap().to_f32().unwrap();
        assert_eq!(halves, [0.099_975_586, -65504.0]);
    }
}
