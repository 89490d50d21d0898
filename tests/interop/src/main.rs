//! `interop candle FILE.dat FILE.gguf`: candle reads our legacy file, and quantizes with what we read of the GGUF one.
//! `interop dump FILE.gguf`: every number as we read it, in bits, for another reader to compare with.

use std::error::Error;

use candle_core::quantized::imatrix_file::load_imatrix;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use llama_imatrix::Imatrix;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["candle", dat, gguf] => {
            reads(dat)?;
            quantizes(gguf)
        }
        ["dump", gguf] => dump(gguf),
        _ => Err("usage: interop candle FILE.dat FILE.gguf | interop dump FILE.gguf".into()),
    }
}

/// candle's averages are those of the file, to the bit.
fn reads(dat: &str) -> Result<(), Box<dyn Error>> {
    let theirs = load_imatrix(dat)?;
    let ours = Imatrix::load(dat)?;
    assert_eq!(theirs.len(), ours.entries.len(), "weights");
    let mut values = 0;
    for (name, entry) in &ours.entries {
        let calls = entry.counts[0] as f32;
        let want: Vec<u32> = entry.sum2.iter().map(|x| (x / calls).to_bits()).collect();
        let found: Vec<u32> = theirs[name].iter().map(|x| x.to_bits()).collect();
        assert_eq!(found, want, "{name}");
        values += found.len();
    }
    println!("candle reads {dat}: {} weights, {values} values, all equal in bits", theirs.len());
    Ok(())
}

/// What our reader gives of a GGUF file, which candle has no reader for, is what its quantizer takes: the error that the
/// matrix weighs gets smaller.
fn quantizes(gguf: &str) -> Result<(), Box<dyn Error>> {
    let imatrix = Imatrix::read(gguf)?;
    let (mut better, mut all) = (0, 0);
    for (name, entry) in imatrix.iter().filter(|(_, entry)| entry.n_matrices() == 1) {
        let importance = entry.importance();
        if importance.len() % 256 != 0 {
            continue; // not whole blocks of a k-quant
        }
        let weight = Tensor::randn(0_f32, 1.0, (64, importance.len()), &Device::Cpu)?;
        let plain = QTensor::quantize(&weight, GgmlDType::Q3K)?;
        let with = QTensor::quantize_imatrix(&weight, &importance, GgmlDType::Q3K)?;
        let by = Tensor::from_slice(&importance, (1, importance.len()), &Device::Cpu)?;
        let error = |quantized: &QTensor| -> candle_core::Result<f32> {
            let difference = (quantized.dequantize(&Device::Cpu)? - &weight)?;
            difference.sqr()?.broadcast_mul(&by)?.mean_all()?.to_scalar()
        };
        let (plain, with) = (error(&plain)?, error(&with)?);
        all += 1;
        better += usize::from(with < plain);
        if all == 1 {
            println!("candle quantizes with {gguf}: {name} to Q3_K, weighted error {plain:.6} without, {with:.6} with");
        }
    }
    println!("candle quantizes with {gguf}: {better} of {all} weights have a smaller weighted error");
    if all == 0 || better * 10 < all * 9 {
        return Err("the matrix does not help candle's quantizer".into());
    }
    Ok(())
}

fn dump(gguf: &str) -> Result<(), Box<dyn Error>> {
    let loaded = Imatrix::load(gguf)?;
    println!("{}\t{}\t{}", loaded.chunk_count, loaded.chunk_size, loaded.datasets.join("\u{1f}"));
    for (name, entry) in &loaded.entries {
        let counts: Vec<_> = entry.counts.iter().map(ToString::to_string).collect();
        println!("{name}\t{}\t{}\t{}", counts.join(","), bits(&entry.sum2), bits(entry.activations()));
    }
    Ok(())
}

fn bits(values: &[f32]) -> String {
    values.iter().map(|x| format!("{:08x}", x.to_bits())).collect()
}
