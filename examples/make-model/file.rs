//! A model file under construction: hyperparameters and tables of tensors, filled when it is written.

use std::collections::BTreeMap;
use std::io::Write;

use llama_imatrix::gguf::{DType, Error, Value, Writer};

use super::pool::Pool;
use super::rng::Rng;
use super::vocab::Vocab;

/// A line of a table of tensors: name, how it is filled, dimensions (`ne`, the row's length first).
pub(crate) type Row<'a> = (&'a str, Fill, &'a [u64]);

/// How a tensor is filled.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// About 1; f32.
    Norm,
    /// Deviation 1/sqrt(row length), which keeps what is multiplied with it at its scale.
    Weight(DType),
}

pub(crate) struct ModelFile {
    arch: &'static str,
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, Fill, Vec<u64>)>,
}

impl ModelFile {
    pub(crate) fn new(arch: &'static str, name: &str, vocab: &Vocab) -> Self {
        let mut model = Self { arch, keys: Vec::new(), tensors: Vec::new() };
        model.set("general.architecture", arch);
        model.set("general.type", "model");
        model.set("general.name", format!("llama-imatrix benchmark model, {name}"));
        model.set("general.quantization_version", 2u32);
        model.hparam("vocab_size", vocab.size as u32);
        vocab.describe(&mut model);
        model
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.push((key.to_owned(), value.into()));
    }

    /// Sets `ARCH.key`.
    pub(crate) fn hparam(&mut self, key: &str, value: impl Into<Value>) {
        self.set(&format!("{}.{key}", self.arch), value);
    }

    /// Adds the tensors of a table, each name after `prefix`.
    pub(crate) fn tensors(&mut self, prefix: &str, rows: &[Row]) {
        let owned = |&(name, fill, dims): &Row| (format!("{prefix}{name}"), fill, dims.to_vec());
        self.tensors.extend(rows.iter().map(owned));
    }

    /// Writes the file. Weights are windows into pools of random numbers, so that gigabytes are never held.
    pub(crate) fn write(&self, w: &mut dyn Write) -> Result<(), Error> {
        let pools = self.pools();
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            writer.set(key, value.clone());
        }
        for (name, fill, dims) in &self.tensors {
            let mut rng = Rng::named(&[self.arch, name]);
            match *fill {
                Fill::Norm => {
                    let values: Vec<f32> = (0..elements(dims)).map(|_| 1.0 + 0.1 * rng.normal()).collect();
                    writer.f32_tensor(name, dims, values)?;
                }
                Fill::Weight(dtype) => {
                    let pool = &pools[&(dtype, dims[0])];
                    writer.tensor(name, dtype, dims, pool.window(elements(dims), &mut rng))?;
                }
            }
        }
        writer.write_to(w)
    }

    /// A pool for each format and length of rows, as large as the largest tensor that takes from it.
    fn pools(&self) -> BTreeMap<(DType, u64), Pool> {
        let mut largest = BTreeMap::<(DType, u64), u64>::new();
        for (_, fill, dims) in &self.tensors {
            if let Fill::Weight(dtype) = *fill {
                let most = largest.entry((dtype, dims[0])).or_default();
                *most = elements(dims).max(*most);
            }
        }
        largest.into_iter().map(|((dtype, row), most)| ((dtype, row), Pool::new(dtype, row, most))).collect()
    }
}

fn elements(dims: &[u64]) -> u64 {
    dims.iter().product()
}
