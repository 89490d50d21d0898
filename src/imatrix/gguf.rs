//! The GGUF format of an importance matrix.
//!
//! Per weight: `NAME.in_sum2` [n, matrices], `NAME.counts` [1, matrices], `NAME.in_sum` [n, matrices] unless part of the data
//! came from a legacy file, and `NAME.stats` [12]. All are F32.

use std::collections::BTreeMap;
use std::io;

use super::{Entry, Error, Imatrix, Loaded, Numbers, Slice, Values, WeightStatistics, fill};
use crate::gguf::{Array, DType, File, Kind, MAX_NAME_BYTES, Tensor, Value, Writer};

const GENERAL_TYPE: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const N_LAYER_NEXTN: &str = "imatrix.n_layer_nextn";
const STATS_SCHEMA: &str = "imatrix.stats_schema";
/// Only in a matrix with filled experts; other programs ignore it.
const FILLED_EXPERTS: &str = "imatrix.filled_experts";

const IN_SUM: &str = ".in_sum";
const IN_SUM2: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const STATS: &str = ".stats";

/// Maximum count in a file: f64 represents all integers up to here, and the sum of a thousand such counts cannot overflow.
const MAX_COUNT: f32 = 9_007_199_254_740_992.0; // 2^53

pub(super) fn read<'f>(file: &'f File<'_>) -> Result<Loaded<Slice<'f>>, Error> {
    // Some third-party files lack the key, so it is an error only if it names another type.
    let kind = Kind::of(file);
    let says = file.get(GENERAL_TYPE).and_then(Value::as_str);
    if says.is_some() && kind != Kind::Imatrix {
        return Err(Error::NotImatrix(kind));
    }
    let parts = group(file);
    if parts.is_empty() {
        return Err(if let Kind::Model { .. } = kind { Error::NotImatrix(kind) } else { Error::NoEntries });
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
        filled: fill::read(file.get(FILLED_EXPERTS).and_then(Value::as_strings).unwrap_or_default()),
    })
}

/// Reads a u32 key as int32, as upstream does; 0 if absent.
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
        } // other tensors, such as the statistics, are derived
    }
    parts
}

impl<'f> Parts<'f> {
    fn entry(&self, name: &str) -> Result<Entry<Slice<'f>>, Error> {
        let required = |tensor: &Option<Tensor<'f>>, part| match tensor {
            Some(t) => values(t, name, part),
            None => Err(Error::MissingPart { name: name.to_owned(), part }),
        };
        let sum2 = required(&self.in_sum2, IN_SUM2)?;
        let counts = required(&self.counts, COUNTS)?;
        let sum = self.in_sum.as_ref().map(|t| values(t, name, IN_SUM)).transpose()?;
        let counts = counts.numbers().to_vec().into_iter().enumerate();
        let counts = counts.map(|(index, c)| count(name, index, c)).collect::<Result<_, _>>()?;
        let entry = Entry { sum2, sum, counts };
        // Checked before the lengths are used: empty sums do not match sums of squares either.
        if let Some(sum) = entry.sum.as_ref().filter(|sum| sum.len() != entry.sum2.len()) {
            return Err(Error::SumLengths { name: name.to_owned(), sum: sum.len(), sum2: entry.sum2.len() });
        }
        entry.check(name)?;
        Ok(entry)
    }
}

fn values<'f>(tensor: &Tensor<'f>, name: &str, part: &'static str) -> Result<Slice<'f>, Error> {
    match tensor.dtype {
        DType::F32 => Ok(Slice::of_bytes(tensor.data)),
        found => Err(Error::PartType { name: name.to_owned(), part, found }),
    }
}

/// Rounds a count half away from zero, as upstream's `lround` does.
fn count(name: &str, index: usize, found: f32) -> Result<i64, Error> {
    if (0.0..=MAX_COUNT).contains(&found) {
        Ok(found.round() as i64)
    } else {
        Err(Error::Count { name: name.to_owned(), index, found: found.into() })
    }
}

pub(super) fn write(
    imatrix: &Imatrix<Numbers<'_>>,
    statistics: &WeightStatistics<'_>,
    w: impl io::Write,
) -> Result<(), Error> {
    let mut file = Writer::new();
    set_metadata(&mut file, imatrix, statistics.schema);
    for (name, entry) in &imatrix.entries {
        let matrices = entry.counts.len() as u64;
        if let Some(row) = entry.row_len().filter(|&row| row > 0) {
            let shape = [row as u64, matrices];
            let counts: Vec<f32> = entry.counts.iter().map(|&c| c as f32).collect();
            file.f32_source(tensor_name(name, IN_SUM2), &shape, &entry.sum2)?;
            file.f32_tensor(tensor_name(name, COUNTS), &[1, matrices], counts)?;
            if let Some(sum) = entry.present_sum() {
                file.f32_source(tensor_name(name, IN_SUM), &shape, sum)?;
            }
        }
        // Upstream writes zeros for a weight that has no statistics.
        let n = statistics.schema.len();
        let values = statistics.values.get(name.as_str()).cloned().unwrap_or_else(|| vec![0.0; n]);
        file.f32_tensor(tensor_name(name, STATS), &[n as u64], values)?;
    }
    Ok(file.write_to(w)?)
}

fn set_metadata(file: &mut Writer<'_>, imatrix: &Imatrix<Numbers<'_>>, schema: &[&str]) {
    // Upstream passes the names on as C strings.
    let datasets: Vec<&str> = imatrix.datasets.iter().map(|d| d.split('\0').next().unwrap_or_default()).collect();
    file.set(GENERAL_TYPE, "imatrix");
    file.set(DATASETS, datasets);
    file.set(CHUNK_COUNT, imatrix.chunk_count as u32);
    file.set(CHUNK_SIZE, imatrix.chunk_size as u32);
    if imatrix.n_layer_nextn > 0 {
        file.set(N_LAYER_NEXTN, imatrix.n_layer_nextn as u32);
    }
    file.set(STATS_SCHEMA, schema);
    if !imatrix.filled.is_empty() {
        file.set(FILLED_EXPERTS, Value::Array(Array::String(fill::written(&imatrix.filled))));
    }
}

/// Returns the tensor name of a part, cut to ggml's maximum length as `ggml_format_name` does. A weight whose name has over
/// 55 bytes loses the suffix, in upstream's file too. If two names become equal, upstream aborts; the writer returns an
/// error.
fn tensor_name(name: &str, suffix: &str) -> String {
    let mut full = format!("{name}{suffix}");
    let mut end = full.len().min(MAX_NAME_BYTES);
    while !full.is_char_boundary(end) {
        end -= 1;
    }
    full.truncate(end);
    full
}
