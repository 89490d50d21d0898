//! The GGUF form of an importance matrix.
//!
//! Per weight: `NAME.in_sum2` [n, matrices], `NAME.counts` [1, matrices], `NAME.in_sum` like the
//! first unless the data came through a legacy file, `NAME.stats` [12], all F32.

use std::collections::BTreeMap;
use std::io;

use super::{Entry, Error, Imatrix, Loaded};
use crate::gguf::{DType, File, MAX_NAME_BYTES, Tensor, Value, Writer};
use crate::stats;

const GENERAL_TYPE: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const N_LAYER_NEXTN: &str = "imatrix.n_layer_nextn";
const STATS_SCHEMA: &str = "imatrix.stats_schema";

const IN_SUM: &str = ".in_sum";
const IN_SUM2: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const STATS: &str = ".stats";

/// The largest count taken from a file: up to here f64 and i64 have the same integers, and sums of
/// a thousand of them cannot overflow.
const MAX_COUNT: f32 = 9_007_199_254_740_992.0; // 2^53

pub(super) fn read(file: &File<'_>) -> Result<Loaded, Error> {
    // Absent from some third-party files, hence only refused where it names something else.
    if let Some(kind) = file.get(GENERAL_TYPE).and_then(Value::as_str).filter(|&kind| kind != "imatrix") {
        return Err(Error::NotImatrix(kind.to_owned()));
    }
    let parts = group(file);
    if parts.is_empty() {
        return Err(Error::NoEntries);
    }
    let mut entries = BTreeMap::new();
    for (name, parts) in parts {
        entries.insert(name.to_owned(), parts.entry(name)?);
    }
    let has = |key| file.get(key).is_some();
    Ok(Loaded {
        entries,
        datasets: file.get(DATASETS).and_then(Value::as_strings).unwrap_or_default().to_vec(),
        chunk_count: number(file, CHUNK_COUNT)?,
        chunk_size: number(file, CHUNK_SIZE)?,
        n_layer_nextn: number(file, N_LAYER_NEXTN)?,
        is_legacy: false,
        has_metadata: has(DATASETS) && has(CHUNK_COUNT) && has(CHUNK_SIZE),
    })
}

/// A u32 key as upstream's int32, 0 where absent.
fn number(file: &File<'_>, key: &'static str) -> Result<i32, Error> {
    match file.get(key) {
        None => Ok(0),
        Some(Value::U32(n)) => Ok(*n as i32),
        Some(other) => Err(Error::KeyType { key, found: other.value_type().name() }),
    }
}

/// The tensors of one weight.
#[derive(Default)]
struct Parts<'f> {
    in_sum: Option<Tensor<'f>>,
    in_sum2: Option<Tensor<'f>>,
    counts: Option<Tensor<'f>>,
}

fn group<'f>(file: &'f File<'_>) -> BTreeMap<&'f str, Parts<'f>> {
    let mut parts: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
    for tensor in file.tensors() {
        if let Some(name) = tensor.name.strip_suffix(IN_SUM) {
            parts.entry(name).or_default().in_sum = Some(tensor);
        } else if let Some(name) = tensor.name.strip_suffix(IN_SUM2) {
            parts.entry(name).or_default().in_sum2 = Some(tensor);
        } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
            parts.entry(name).or_default().counts = Some(tensor);
        } // the rest, such as the statistics, is derived
    }
    parts
}

impl Parts<'_> {
    fn entry(&self, name: &str) -> Result<Entry, Error> {
        let required = |tensor: &Option<Tensor<'_>>, part| match tensor {
            Some(t) => values(t, name, part),
            None => Err(Error::MissingPart { name: name.to_owned(), part }),
        };
        let sum2 = required(&self.in_sum2, IN_SUM2)?;
        let counts = required(&self.counts, COUNTS)?;
        let sum = self.in_sum.as_ref().map(|t| values(t, name, IN_SUM)).transpose()?;
        let counts = counts.iter().enumerate().map(|(index, &c)| count(name, index, c)).collect::<Result<_, _>>()?;
        let entry = Entry { sum2, sum, counts };
        // Before the lengths are used: an empty sum beside sums of squares is a mismatch, too.
        if let Some(sum) = entry.sum.as_ref().filter(|sum| sum.len() != entry.sum2.len()) {
            return Err(Error::SumLengths { name: name.to_owned(), sum: sum.len(), sum2: entry.sum2.len() });
        }
        entry.check(name)?;
        Ok(entry)
    }
}

fn values(tensor: &Tensor<'_>, name: &str, part: &'static str) -> Result<Vec<f32>, Error> {
    let wrong_type = || Error::PartType { name: name.to_owned(), part, found: tensor.dtype };
    Some(tensor).filter(|t| t.dtype == DType::F32).and_then(Tensor::to_f32).ok_or_else(wrong_type)
}

/// A count, rounded half away from zero as upstream's `lround` does.
fn count(name: &str, index: usize, found: f32) -> Result<i64, Error> {
    if (0.0..=MAX_COUNT).contains(&found) {
        Ok(found.round() as i64)
    } else {
        Err(Error::Count { name: name.to_owned(), index, found: found.into() })
    }
}

pub(super) fn write(imatrix: &Imatrix, w: impl io::Write) -> Result<(), Error> {
    let statistics = stats::Statistics::new(&imatrix.entries, imatrix.n_layer_nextn);
    let mut file = Writer::new();
    set_metadata(&mut file, imatrix);
    for (name, entry) in &imatrix.entries {
        let matrices = entry.counts.len() as u64;
        if let Some(row) = entry.row_len().filter(|&row| row > 0) {
            let shape = [row as u64, matrices];
            let counts: Vec<f32> = entry.counts.iter().map(|&c| c as f32).collect();
            file.f32_tensor(tensor_name(name, IN_SUM2), &shape, &entry.sum2)?;
            file.f32_tensor(tensor_name(name, COUNTS), &[1, matrices], counts)?;
            if !entry.activations().is_empty() {
                file.f32_tensor(tensor_name(name, IN_SUM), &shape, entry.activations())?;
            }
        }
        // Upstream writes zeros for a weight that has no statistics.
        let values = statistics.get(name).map_or([0.0; stats::SCHEMA.len()], stats::TensorStats::values);
        file.f32_tensor(tensor_name(name, STATS), &[stats::SCHEMA.len() as u64], values.to_vec())?;
    }
    file.write_to(w)?;
    Ok(())
}

fn set_metadata(file: &mut Writer<'_>, imatrix: &Imatrix) {
    // Upstream passes these on as C strings.
    let datasets: Vec<&str> = imatrix.datasets.iter().map(|d| d.split('\0').next().unwrap_or_default()).collect();
    file.set(GENERAL_TYPE, "imatrix");
    file.set(DATASETS, datasets);
    file.set(CHUNK_COUNT, imatrix.chunk_count as u32);
    file.set(CHUNK_SIZE, imatrix.chunk_size as u32);
    if imatrix.n_layer_nextn > 0 {
        file.set(N_LAYER_NEXTN, imatrix.n_layer_nextn as u32);
    }
    file.set(STATS_SCHEMA, &stats::SCHEMA[..]);
}

/// A part's tensor name, cut to what ggml has room for, as `ggml_format_name` cuts it. A weight
/// whose name has over 55 bytes loses the suffix in upstream's file as in ours; where two names
/// become one, upstream aborts and the writer reports the duplicate.
fn tensor_name(name: &str, suffix: &str) -> String {
    let mut full = format!("{name}{suffix}");
    let mut end = full.len().min(MAX_NAME_BYTES);
    while !full.is_char_boundary(end) {
        end -= 1;
    }
    full.truncate(end);
    full
}
