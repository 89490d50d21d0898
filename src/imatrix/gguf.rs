//! The GGUF form of an importance matrix.
//!
//! Per weight: `NAME.in_sum2` [n, matrices], `NAME.counts` [1, matrices], `NAME.in_sum` like the
//! first unless the data came through a legacy file, `NAME.stats` [12], all F32.

use std::collections::BTreeMap;
use std::io;
use std::panic::resume_unwind;
use std::thread;

use super::{Entry, Error, Imatrix, Loaded, Numbers, Slice, Values};
use crate::gguf::{DType, File, MAX_NAME_BYTES, Tensor, Value, Writer};
use crate::stats::{self, Statistics};

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

pub(super) fn read<'f>(file: &'f File<'_>) -> Result<Loaded<Slice<'f>>, Error> {
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
        // Before the lengths are used: an empty sum beside sums of squares is a mismatch, too.
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

/// A count, rounded half away from zero as upstream's `lround` does.
fn count(name: &str, index: usize, found: f32) -> Result<i64, Error> {
    if (0.0..=MAX_COUNT).contains(&found) {
        Ok(found.round() as i64)
    } else {
        Err(Error::Count { name: name.to_owned(), index, found: found.into() })
    }
}

/// Sums from which statistics are worth a thread beside the writing one.
const WORTH_A_THREAD: usize = 1 << 18;

pub(super) fn write(imatrix: &Imatrix<Numbers<'_>>, w: impl io::Write) -> Result<(), Error> {
    let statistics = Statistics::new(&imatrix.entries, imatrix.n_layer_nextn);
    Ok(file(imatrix, &statistics)?.write_to(w)?)
}

/// As [`write`], the statistics computed meanwhile: they come into their places at the end. What
/// they take is so hidden behind the disk.
pub(super) fn write_beside_statistics(
    imatrix: &Imatrix<Numbers<'_>>,
    mut w: impl io::Write + io::Seek,
) -> Result<(), Error> {
    if imatrix.entries.values().map(|e| e.sum2.len()).sum::<usize>() < WORTH_A_THREAD {
        return write(imatrix, w);
    }
    let file = file(imatrix, &Statistics::default())?;
    let (written, statistics) = thread::scope(|scope| {
        let statistics = scope.spawn(|| Statistics::new(&imatrix.entries, imatrix.n_layer_nextn));
        let written = file.write_to(&mut w);
        (written, statistics.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    written?;
    // By their order, not by their names, which may have been cut.
    for (name, at) in imatrix.entries.keys().zip(places_of_statistics(imatrix, &file)?) {
        let bytes: Vec<u8> = statistics_of(&statistics, name).iter().flat_map(|x| x.to_le_bytes()).collect();
        w.seek(io::SeekFrom::Start(at))?;
        w.write_all(&bytes)?;
    }
    Ok(w.flush()?)
}

/// Where each entry's statistics lie in the file: its last tensor.
fn places_of_statistics(imatrix: &Imatrix<Numbers<'_>>, file: &Writer<'_>) -> Result<Vec<u64>, Error> {
    let mut places = file.places()?.into_iter();
    let tensors = imatrix.entries.values().map(|entry| match entry.row_len() {
        None | Some(0) => 1,
        Some(_) => 3 + usize::from(entry.present_sum().is_some()),
    });
    Ok(tensors.filter_map(|n| places.nth(n - 1)).collect())
}

/// The file, its numbers where they are.
fn file<'a>(imatrix: &'a Imatrix<Numbers<'a>>, statistics: &Statistics) -> Result<Writer<'a>, Error> {
    let mut file = Writer::new();
    set_metadata(&mut file, imatrix);
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
        let values = statistics_of(statistics, name);
        file.f32_tensor(tensor_name(name, STATS), &[values.len() as u64], values.to_vec())?;
    }
    Ok(file)
}

/// Upstream writes zeros for a weight that has no statistics.
fn statistics_of(statistics: &Statistics, name: &str) -> [f32; stats::SCHEMA.len()] {
    statistics.get(name).map_or([0.0; stats::SCHEMA.len()], stats::TensorStats::values)
}

fn set_metadata(file: &mut Writer<'_>, imatrix: &Imatrix<Numbers<'_>>) {
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
