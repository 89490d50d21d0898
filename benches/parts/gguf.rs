//! GGUF files in memory.

use divan::Bencher;
use divan::counter::BytesCount;
use llama_imatrix::gguf::{File, Writer};

use super::activations;

const TENSORS: usize = 64;
const VALUES: usize = 64 * 1024;

/// A vocabulary's worth of strings: most of what reading a model's keys takes.
const STRINGS: usize = 32_000;

fn bytes() -> Vec<u8> {
    let values = activations(VALUES);
    let mut bytes = Vec::new();
    writer(&values).write_to(&mut bytes).expect("memory takes all");
    bytes
}

fn writer(values: &[f32]) -> Writer<'_> {
    let mut writer = Writer::new();
    writer.set("tokenizer.ggml.tokens", (0..STRINGS).map(|i| format!("token {i}")).collect::<Vec<String>>());
    for i in 0..TENSORS {
        writer.f32_tensor(format!("blk.{i}.weight"), &[VALUES as u64], values).expect("a valid tensor");
    }
    writer
}

/// Header alone: tensor data stays where it is.
#[divan::bench]
fn parse(bencher: Bencher) {
    let bytes = bytes();
    bencher.bench(|| File::from_bytes(bytes.as_slice()).map(|file| file.tensors().len()));
}

/// Every tensor's values.
#[divan::bench]
fn read_values(bencher: Bencher) {
    let bytes = bytes();
    let file = File::from_bytes(bytes.as_slice()).expect("what was just written");
    bencher.counter(BytesCount::new(TENSORS * VALUES * 4)).bench(|| {
        for tensor in file.tensors() {
            divan::black_box(tensor.to_f32());
        }
    });
}

#[divan::bench]
fn write(bencher: Bencher) {
    let values = activations(VALUES);
    let writer = writer(&values);
    let mut out = bytes();
    bencher.counter(BytesCount::new(TENSORS * VALUES * 4)).bench_local(|| {
        out.clear();
        writer.write_to(&mut out)
    });
}
