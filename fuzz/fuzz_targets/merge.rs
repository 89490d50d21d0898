//! Merging, of matrices with and without weights and of states. Two files, behind the length of the
//! first and a byte that says its weight.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llama_imatrix::imatrix::{ChunkSizes, Format, Imatrix, merge_weighted};
use llama_imatrix::state::{Merger, State, reseal};

const SIZES: ChunkSizes = ChunkSizes { run: 512, legacy: 256 };

fuzz_target!(|data: &[u8]| {
    let Some((&[low, high, weight], rest)) = data.split_first_chunk() else { return };
    let (a, b) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    matrices(a, b, f64::from(weight) / 16.0);
    states(a, b);
});

fn matrices(a: &[u8], b: &[u8], weight: f64) {
    let (Ok(a), Ok(b)) = (Imatrix::load_from(a), Imatrix::load_from(b)) else { return };
    let mut plain = Imatrix::default();
    let first = plain.merge(&a, SIZES);
    let before = plain.clone();
    let second = plain.merge(&b, SIZES);
    if second.is_err() {
        // Written out, since NaN is not equal to itself.
        assert!(format!("{plain:?}") == format!("{before:?}"), "a failed merge changes nothing");
    }
    let ones = merge_weighted(&[(a.clone(), 1.0), (b.clone(), 1.0)], SIZES);
    assert_eq!(ones.is_ok(), first.is_ok() && second.is_ok());
    if let Ok((mut merged, _)) = merge_weighted(&[(a, weight), (b, 1.0)], SIZES) {
        merged.settle_chunk_size(512);
        let _ = merged.write(std::io::sink(), Format::Gguf);
        let _ = merged.write(std::io::sink(), Format::Dat);
    }
}

fn states(a: &[u8], b: &[u8]) {
    let load = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        reseal(&mut bytes);
        State::load_from(&bytes)
    };
    let (Ok(a), Ok(b)) = (load(a), load(b)) else { return };
    let merge = |first: State<'static>, second: State<'static>| {
        let mut merger = Merger::default();
        merger.add(Path::new("a"), first).ok()?;
        merger.add(Path::new("b"), second).ok()?;
        merger.finish().ok()
    };
    let forth = merge(a.clone(), b.clone());
    let back = merge(b, a);
    assert_eq!(forth.is_some(), back.is_some());
    if let (Some(forth), Some(back)) = (forth, back) {
        assert!(
            format!("{:?}", forth.to_imatrix()) == format!("{:?}", back.to_imatrix()),
            "the order is without effect"
        );
        forth.write(std::io::sink()).expect("a merged state can be written");
    }
}
