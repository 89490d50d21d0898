//! An importance matrix of 16 MiB: loading, merging, writing.

use divan::Bencher;
use divan::counter::BytesCount;
use llama_imatrix::imatrix::{ChunkSizes, Entry, Format, Imatrix};

use super::activations;

const WEIGHTS: usize = 8;
const EXPERTS: usize = 256;
const CHANNELS: usize = 1024;
const BYTES: usize = WEIGHTS * EXPERTS * CHANNELS * size_of::<f32>() * 2;

fn matrix() -> Imatrix {
    let sum = activations(EXPERTS * CHANNELS);
    let sum2 = sum.iter().map(|x| x * x).collect();
    let entry = Entry { sum2, sum: Some(sum), counts: vec![1600; EXPERTS] };
    let entries = (0..WEIGHTS).map(|layer| (format!("blk.{layer}.ffn_up_exps.weight"), entry.clone())).collect();
    Imatrix { entries, datasets: vec!["text".into()], chunk_count: 100, chunk_size: 512, ..Imatrix::default() }
}

fn bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    matrix().write(&mut bytes, Format::Gguf).expect("a valid matrix");
    bytes
}

#[divan::bench]
fn load(bencher: Bencher) {
    let bytes = bytes();
    bencher.counter(BytesCount::new(BYTES)).bench(|| Imatrix::load_from(&bytes));
}

#[divan::bench]
fn merge(bencher: Bencher) {
    let loaded = Imatrix::load_from(&bytes()).expect("what was just written");
    let sizes = ChunkSizes { run: 512, legacy: 512 };
    bencher
        .counter(BytesCount::new(BYTES))
        .with_inputs(matrix)
        .bench_local_refs(|into| into.merge(&loaded, sizes).map(|warnings| warnings.len()));
}

#[divan::bench]
fn write(bencher: Bencher) {
    let matrix = matrix();
    let mut out = bytes();
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        out.clear();
        matrix.write(&mut out, Format::Gguf)
    });
}
