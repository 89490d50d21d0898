//! The hand-made files of ggml's `tests/test-gguf.cpp` (llama.cpp 0.6.0), by its names: what each is told as.

use llama_imatrix::gguf::File;

/// `GGUF`, version, numbers of tensors and of keys, then `parts`.
fn file(version: u32, tensors: u64, keys: u64, parts: &[&[u8]]) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    [b"GGUF", &version.to_le_bytes()[..], &counts, &parts.concat()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn key(name: &str, value_type: u32, value: u32) -> Vec<u8> {
    [&text(name)[..], &value_type.to_le_bytes(), &value.to_le_bytes()].concat()
}

fn aligned(value: u32) -> Vec<u8> {
    key("general.alignment", 4, value)
}

fn tensor(name: &str, shape: &[u64], dtype: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    let shape = [&(shape.len() as u32).to_le_bytes()[..], &dims].concat();
    [&text(name)[..], &shape, &dtype.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn each_of_ggmls_cases_has_its_error() {
    const BIG: u64 = 1 << 40;
    let zeros = [0; 512];
    let one = |t: Vec<u8>| file(3, 1, 0, &[&t, &zeros]);
    // Two tensors of 4 bytes, the second where `offset` says, behind what `keys` say of alignment.
    let two = |keys: &[Vec<u8>], offset: u64, room: usize| {
        let tensors = [tensor("a", &[1], 0, 0), tensor("b", &[1], 0, offset)].concat();
        file(3, 2, keys.len() as u64, &[&keys.concat(), &tensors, &zeros[..room]])
    };
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("HEADER_BAD_MAGIC", [b"FUGG", &zeros[..64]].concat(), "Magic"),
        ("HEADER_BAD_VERSION_0", file(0, 0, 0, &[&zeros]), "Version(0)"),
        ("HEADER_BAD_VERSION_1", file(1, 0, 0, &[&zeros]), "Version(1)"),
        ("HEADER_BAD_VERSION_FUTURE", file(4, 0, 0, &[&zeros]), "Version(4)"),
        ("HEADER_BAD_N_TENSORS", file(3, u64::MAX, 0, &[&zeros]), "TensorCount"),
        ("HEADER_BAD_N_KV", file(3, 0, u64::MAX, &[&zeros]), "KeyCount"),
        ("HEADER_EMPTY", file(3, 0, 0, &[]), ""),
        ("KV_BAD_KEY_SIZE", file(3, 0, 1, &[&u64::MAX.to_le_bytes(), &zeros]), "StringLength"),
        ("KV_EMPTY_KEY", file(3, 0, 1, &[&key("", 4, 0), &zeros]), "EmptyKey"),
        ("KV_BAD_TYPE", file(3, 0, 1, &[&key("k", 13, 0), &zeros]), "ValueType"),
        ("KV_BAD_VALUE_SIZE", file(3, 0, 1, &[&text("k"), &[8, 0, 0, 0], &BIG.to_le_bytes(), &zeros]), "StringLength"),
        ("KV_DUPLICATE_KEY", file(3, 0, 2, &[&key("k", 4, 0), &key("k", 4, 0), &zeros]), "DuplicateKey"),
        ("KV_BAD_ALIGN", file(3, 0, 1, &[&aligned(13), &zeros]), "Alignment(13)"),
        ("KV_WRONG_TYPE_ALIGN", file(3, 0, 1, &[&key("general.alignment", 5, 32), &zeros]), "AlignmentType"),
        ("KV_SUCCESS", file(3, 0, 1, &[&key("k", 4, 0)]), ""),
        ("TENSORS_BAD_NAME_SIZE", one(tensor(&"x".repeat(64), &[1], 0, 0)), "NameLength"),
        ("TENSORS_BAD_N_DIMS", one(tensor("t", &[1; 5], 0, 0)), "Dimensions"),
        ("TENSORS_BAD_SHAPE", one(tensor("t", &[u64::MAX], 0, 0)), "ShapeOverflow"),
        ("TENSORS_ZERO_DIM", one(tensor("t", &[32, 0], 0, 0)), ""),
        ("TENSORS_NE_TOO_BIG", one(tensor("t", &[BIG, BIG], 0, 0)), "ShapeOverflow"),
        ("TENSORS_NBYTES_TOO_BIG", one(tensor("t", &[1 << 31, 1 << 31], 28, 0)), "ShapeOverflow"),
        ("TENSORS_NBYTES_PAD_WRAP", one(tensor("t", &[4, (1 << 30) - 1, (1 << 30) + 1], 0, 0)), "Truncated"),
        ("TENSORS_BAD_TYPE", one(tensor("t", &[1], 43, 0)), "TensorType"),
        ("TENSORS_BAD_OFFSET", one(tensor("t", &[1], 0, 1)), "Offset"),
        ("TENSORS_DUPLICATE_NAME", file(3, 2, 0, &[&tensor("t", &[1], 0, 0).repeat(2), &zeros]), "DuplicateTensor"),
        ("TENSORS_BAD_ALIGN", two(&[], 4, 512), "Offset"),
        ("TENSORS_INCONSISTENT_ALIGN", two(&[aligned(16)], 32, 512), "Offset"),
        ("TENSORS_SUCCESS", two(&[], 32, 512), ""),
        ("TENSORS_CUSTOM_ALIGN", two(&[aligned(64)], 64, 512), ""),
        ("DATA_NOT_ENOUGH_DATA", two(&[], 32, 32), "Truncated"),
        ("DATA_BAD_ALIGN", two(&[], 4, 64), "Offset"),
        ("DATA_INCONSISTENT_ALIGN", two(&[aligned(16)], 32, 64), "Offset"),
        ("DATA_MEM_SIZE_OVERFLOW", one(tensor("t", &[(1 << 61) - 1], 0, 0)), "Truncated"),
        ("DATA_SUCCESS", two(&[], 32, 100), ""),
        ("DATA_CUSTOM_ALIGN", two(&[aligned(64)], 64, 200), ""),
    ];
    for (name, bytes, expected) in cases {
        match File::from_bytes(bytes) {
            Ok(_) => assert_eq!(*expected, "", "{name} is taken"),
            Err(e) => assert!(!expected.is_empty() && format!("{e:?}").starts_with(expected), "{name}: {e:?}"),
        }
    }
}
