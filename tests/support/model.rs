//! A model file under construction: hyperparameters, then tables of tensors.

use llama_imatrix::gguf::{DType, Value, Writer};

use super::quant::{K_BLOCK, Q4_K, Q5_K, Q6_K, f16_bytes, f32_bytes, k_blocks, q8_0_bytes};
use super::rng::Rng;
use super::vocab::Vocab;

/// The channel in which norms are large: trained models have such outliers, and statistics should see one.
const OUTLIER: u64 = 5;

/// A line of a table of tensors: name, how it is filled, dimensions (`ne`, the row's length first).
pub type Row<'a> = (&'a str, Fill, &'a [u64]);

#[derive(Clone, Copy)]
pub enum Fill {
    /// About 1, an outlier of 4; f32.
    Norm,
    /// About 0, deviation 0.1; f32.
    Bias,
    /// Deviation 1; f32. For embeddings of models with an output matrix of their own.
    Embedding,
    /// Deviation 1/sqrt(row length), which keeps what is multiplied with it at its scale; f32.
    Weight,
    /// The same in f16.
    WeightF16,
    /// The same in `Q8_0`.
    WeightQ8,
    /// Random blocks of K-quants, of about that deviation.
    WeightQ4K,
    WeightQ5K,
    WeightQ6K,
}

pub struct ModelFile {
    arch: &'static str,
    writer: Writer<'static>,
    /// A value to put in place of another: tensor, index, value.
    poison: Option<(&'static str, u64, f32)>,
}

impl ModelFile {
    pub fn new(arch: &'static str, vocab: Vocab) -> Self {
        let mut model = Self { arch, writer: Writer::new(), poison: None };
        model.set("general.architecture", arch);
        model.set("general.type", "model");
        model.set("general.name", format!("llama-imatrix test model, {arch}"));
        model.set("general.quantization_version", 2u32);
        model.hparam("vocab_size", vocab.len() as u32);
        vocab.describe(&mut model);
        model
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.writer.set(key, value);
    }

    /// Sets `ARCH.key`.
    pub fn hparam(&mut self, key: &str, value: impl Into<Value>) {
        let key = format!("{}.{key}", self.arch);
        self.set(&key, value);
    }

    /// The f32 tensor of that name, when it is added, has this value at this index.
    pub fn poison(&mut self, tensor: &'static str, index: u64, value: f32) {
        self.poison = Some((tensor, index, value));
    }

    /// Adds the tensors of a table, each name after `prefix`.
    pub fn tensors(&mut self, prefix: &str, rows: &[Row]) {
        for &(name, fill, dims) in rows {
            let unit = (dims[0] as f32).sqrt().recip();
            let (dtype, mean, deviation) = match fill {
                Fill::Norm => (DType::F32, 1.0, 0.1),
                Fill::Bias => (DType::F32, 0.0, 0.1),
                Fill::Embedding => (DType::F32, 0.0, 1.0),
                Fill::Weight => (DType::F32, 0.0, unit),
                Fill::WeightF16 => (DType::F16, 0.0, unit),
                Fill::WeightQ8 => (DType::Q8_0, 0.0, unit),
                Fill::WeightQ4K | Fill::WeightQ5K | Fill::WeightQ6K => {
                    self.random_blocks(&format!("{prefix}{name}"), fill, dims, unit);
                    continue;
                }
            };
            let outlier = matches!(fill, Fill::Norm).then_some(OUTLIER);
            self.stored(&format!("{prefix}{name}"), dtype, dims, |i, x| {
                if outlier == Some(i) { 4.0 } else { mean + deviation * x }
            });
        }
    }

    /// Adds an f32 tensor: `value` gets each value's index and a random number of mean 0, variance 1.
    pub fn tensor(&mut self, name: &str, dims: &[u64], value: impl FnMut(u64, f32) -> f32) {
        self.stored(name, DType::F32, dims, value);
    }

    fn random_blocks(&mut self, name: &str, fill: Fill, dims: &[u64], deviation: f32) {
        let mut rng = Rng::named(&[self.arch, name]);
        let blocks = (dims.iter().product::<u64>() / K_BLOCK) as usize;
        let quant = match fill {
            Fill::WeightQ4K => &Q4_K,
            Fill::WeightQ5K => &Q5_K,
            _ => &Q6_K,
        };
        let bytes = k_blocks(&mut rng, blocks, quant, deviation);
        self.writer.tensor(name, quant.dtype, dims, bytes).expect("a tensor of ours is a valid one");
    }

    fn stored(&mut self, name: &str, dtype: DType, dims: &[u64], mut value: impl FnMut(u64, f32) -> f32) {
        let mut rng = Rng::named(&[self.arch, name]);
        let n = dims.iter().product();
        let mut values: Vec<f32> = (0..n).map(|i| value(i, rng.normal())).collect();
        if let Some((_, index, bad)) = self.poison.filter(|poison| poison.0 == name) {
            values[index as usize] = bad;
        }
        let bytes = match dtype {
            DType::F16 => f16_bytes(&values),
            DType::Q8_0 => q8_0_bytes(&values),
            _ => f32_bytes(&values),
        };
        self.writer.tensor(name, dtype, dims, bytes).expect("a tensor of ours is a valid one");
    }

    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.writer.write_to(&mut out).expect("writing to memory does not fail");
        out
    }
}
