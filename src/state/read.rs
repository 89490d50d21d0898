//! Reads a state file and checks every rule.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

use super::{
    Accumulate, ChunkSet, Digest, Error, Fingerprint, Group, Likelihoods, ModelFingerprint, Output, Progress, Shard,
    SharedSums, State, VERSION, measurements, sample, seal, write,
};
use crate::convergence::Point;
use crate::exact::{ExactEntry, SQUARE_WORDS, SUM_WORDS};
use crate::gguf::{Array, DType, File, MAGIC, Tensor, Value};
use crate::imatrix::Entry;
use crate::perplexity::Perplexity;
use crate::sums::Half;

pub(super) fn read(bytes: &[u8]) -> Result<State<'static>, Error> {
    if !bytes.starts_with(&MAGIC) {
        return Err(Error::NotState("it does not begin with \"GGUF\"".to_owned()));
    }
    // A wrong checksum takes precedence, since damaged bytes give misleading errors. An intact file of another kind has
    // no checksum: its kind is reported instead.
    let sealed = seal::verify(bytes);
    let file = match (File::from_bytes(bytes), sealed) {
        (Ok(file), Ok(())) => file,
        (Err(e), Ok(())) => return Err(e.into()),
        (file, Err(damage)) => return Err(file.ok().and_then(|file| other_kind(&file)).unwrap_or(damage)),
    };
    if let Some(error) = other_kind(&file) {
        return Err(error);
    }
    let keys = Keys(&file);
    let version = keys.u32("state.version")?;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let fingerprint = fingerprint(&keys)?;
    let state = State {
        progress: progress(&keys)?,
        output: output(&keys)?,
        likelihoods: likelihoods(&file, &keys)?,
        measurements: measurements::read(&file)?,
        curve: curve(&keys)?,
        sample: sample::read(&file)?,
        sums: match fingerprint.accumulate {
            Accumulate::F32 => SharedSums::F32(groups(&file, &keys, f32_entry)?),
            Accumulate::F64 => SharedSums::Exact(groups(&file, &keys, exact_entry)?),
        },
        fingerprint,
    };
    state.check()?;
    Ok(state)
}

fn other_kind(file: &File<'_>) -> Option<Error> {
    match file.get("general.type").and_then(Value::as_str) {
        Some(write::KIND) => None,
        Some(other) => Some(Error::NotState(format!("'general.type' is \"{other}\", expected \"{}\"", write::KIND))),
        None => Some(Error::NotState("it has no 'general.type'".to_owned())),
    }
}

/// Reads keys as a required type.
struct Keys<'f>(&'f File<'f>);

impl<'f> Keys<'f> {
    fn get<T>(&self, key: &str, expected: &'static str, convert: impl Fn(&'f Value) -> Option<T>) -> Result<T, Error> {
        let value = self.0.get(key);
        value.and_then(convert).ok_or_else(|| {
            let found = value.map_or_else(|| "missing".to_owned(), describe);
            Error::Key { key: key.to_owned(), found, expected }
        })
    }

    fn u32(&self, key: &str) -> Result<u32, Error> {
        self.get(key, "a u32", Value::as_u32)
    }

    fn u64(&self, key: &str) -> Result<u64, Error> {
        self.get(key, "a u64", |value| if let Value::U64(n) = value { Some(*n) } else { None })
    }

    fn i32(&self, key: &str) -> Result<i32, Error> {
        self.get(key, "an i32", |value| if let Value::I32(n) = value { Some(*n) } else { None })
    }

    fn f64(&self, key: &str) -> Result<f64, Error> {
        self.get(key, "an f64", |value| if let Value::F64(n) = value { Some(*n) } else { None })
    }

    fn text(&self, key: &str) -> Result<&'f str, Error> {
        self.get(key, "a string", Value::as_str)
    }

    fn texts(&self, key: &str) -> Result<&'f [String], Error> {
        self.get(key, "an array of strings", Value::as_strings)
    }

    fn u32s(&self, key: &str) -> Result<&'f [u32], Error> {
        self.get(
            key,
            "an array of u32",
            |value| if let Value::Array(Array::U32(v)) = value { Some(&v[..]) } else { None },
        )
    }

    fn parsed<T: FromStr>(&self, key: &str, expected: &'static str) -> Result<T, Error> {
        self.get(key, expected, |value| value.as_str()?.parse().ok())
    }

    fn digest(&self, key: &str) -> Result<Digest, Error> {
        self.parsed(key, "64 hexadecimal digits")
    }

    fn chunks(&self, key: &str) -> Result<ChunkSet, Error> {
        self.get(key, "starts and ends of ranges, in increasing order", |value| {
            let Value::Array(Array::U64(ends)) = value else { return None };
            let (pairs, rest) = ends.as_chunks::<2>();
            let set = ChunkSet::from_sorted(pairs.iter().map(|&[start, end]| start..end).collect());
            set.filter(|_| rest.is_empty())
        })
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("{} values of type {}", array.len(), array.element_type().name()),
        Value::String(text) => format!("\"{}\"", text.chars().take(80).collect::<String>()),
        other => format!("{other:?}"),
    }
}

fn progress(keys: &Keys<'_>) -> Result<Progress, Error> {
    let shard = || {
        keys.get("state.shard", "a shard index and a larger number of shards", |value| {
            let Value::Array(Array::U32(v)) = value else { return None };
            let [index, count] = v[..] else { return None };
            Shard::new(index.into(), count.into()).ok()
        })
    };
    Ok(Progress {
        n_chunks: keys.u64("state.chunks")?,
        done: keys.chunks("state.done")?,
        discarded: keys.chunks("state.discarded")?,
        shard: shard()?,
        tokens: keys.u64("state.tokens")?,
        chunk_count: keys.i32("state.chunk_count")?,
    })
}

fn output(keys: &Keys<'_>) -> Result<Output, Error> {
    let base = "state.base";
    Ok(Output {
        datasets: keys.texts("imatrix.datasets")?.to_vec(),
        chunk_size: keys.i32("imatrix.chunk_size")?,
        n_layer_nextn: keys.i32("imatrix.n_layer_nextn")?,
        base: if keys.0.get(base).is_some() { Some(keys.digest(base)?) } else { None },
    })
}

fn fingerprint(keys: &Keys<'_>) -> Result<Fingerprint, Error> {
    let has_draft = keys.0.get("fingerprint.draft.architecture").is_some();
    let mut flags = BTreeMap::new();
    for flag in keys.texts("fingerprint.flags")? {
        let (name, value) = flag.split_once('=').ok_or_else(|| Error::Flag(flag.clone()))?;
        flags.insert(name.to_owned(), value.to_owned());
    }
    Ok(Fingerprint {
        model: model(keys, "model")?,
        draft: if has_draft { Some(model(keys, "draft")?) } else { None },
        text: keys.digest("fingerprint.text")?,
        n_tokens: keys.u64("fingerprint.tokens")?,
        chunk_size: keys.u32("fingerprint.chunk_size")?,
        n_batch: keys.u32("fingerprint.batch")?,
        n_ubatch: keys.u32("fingerprint.ubatch")?,
        accumulate: keys.parsed("fingerprint.accumulate", "f32 or f64")?,
        llama_cpp: keys.text("fingerprint.llama_cpp")?.to_owned(),
        flags,
    })
}

fn model(keys: &Keys<'_>, which: &str) -> Result<ModelFingerprint, Error> {
    let key = |field: &str| format!("fingerprint.{which}.{field}");
    Ok(ModelFingerprint {
        architecture: keys.text(&key("architecture"))?.to_owned(),
        n_tensors: keys.u64(&key("tensors"))?,
        n_bytes: keys.u64(&key("bytes"))?,
        layout: keys.digest(&key("layout"))?,
        sample: keys.digest(&key("sample"))?,
    })
}

fn groups<E: Clone>(
    file: &File<'_>,
    keys: &Keys<'_>,
    entry: impl Fn(&File<'_>, usize) -> Result<E, Error>,
) -> Result<Vec<Group<'static, E>>, Error> {
    let (weights, numbers) = (keys.texts("state.weights")?, keys.u32s("state.weight_sums")?);
    if weights.len() != numbers.len() {
        let found = format!("{} numbers", numbers.len());
        return Err(Error::Key { key: "state.weight_sums".to_owned(), found, expected: "one number per weight" });
    }
    // Numbers have no gaps, so each is below the number of weights.
    let count = numbers.iter().max().map_or(0, |&most| most as usize + 1);
    if let Some((weight, &found)) = weights.iter().zip(numbers).find(|&(_, &n)| n as usize >= weights.len()) {
        return Err(Error::NoSums { weight: weight.clone(), found, groups: count });
    }
    let mut names = vec![Vec::new(); count];
    for (weight, &number) in weights.iter().zip(numbers) {
        names[number as usize].push(weight.clone());
    }
    let group = |(i, weights): (usize, Vec<String>)| {
        if weights.is_empty() {
            return Err(Error::NoWeight(i));
        }
        Ok(Group { weights, entry: Cow::Owned(entry(file, i)?), even: half(file, i)?.map(Cow::Owned) })
    };
    names.into_iter().enumerate().map(group).collect()
}

fn f32_entry(file: &File<'_>, i: usize) -> Result<Entry, Error> {
    let values =
        |tensor: Tensor<'_>| Some(tensor).filter(|t| t.dtype == DType::F32 && is_flat(t)).and_then(|t| t.to_f32());
    Ok(Entry {
        sum2: tensor(file, format!("sums.{i}.in_sum2"), VALUES, values)?,
        sum: optional(file, format!("sums.{i}.in_sum"), VALUES, values)?,
        counts: tensor(file, format!("sums.{i}.counts"), COUNTS, flat_i64s)?,
    })
}

fn half(file: &File<'_>, i: usize) -> Result<Option<Half>, Error> {
    let name = format!("even.{i}.in_sum2");
    let Some(sum2) = optional(file, name, "f64 in one dimension", flat_f64s)? else { return Ok(None) };
    Ok(Some(Half { sum2, counts: tensor(file, format!("even.{i}.counts"), COUNTS, flat_i64s)? }))
}

fn curve(keys: &Keys<'_>) -> Result<Vec<Point>, Error> {
    if keys.0.get(write::CURVE).is_none() {
        return Ok(Vec::new());
    }
    keys.get(write::CURVE, "a JSON array of points", |value| serde_json::from_str(value.as_str()?).ok())
}

const VALUES: &str = "f32 in one dimension";
const COUNTS: &str = "i64 in one dimension";

fn exact_entry(file: &File<'_>, i: usize) -> Result<ExactEntry, Error> {
    Ok(ExactEntry {
        sum2: tensor(file, format!("sums.{i}.in_sum2"), "i64 in rows of 3", |t| words(t, SQUARE_WORDS))?,
        sum: optional(file, format!("sums.{i}.in_sum"), "i64 in rows of 2", |t| words(t, SUM_WORDS))?,
        counts: tensor(file, format!("sums.{i}.counts"), COUNTS, flat_i64s)?,
    })
}

fn words(tensor: Tensor<'_>, row: usize) -> Option<Vec<i64>> {
    let rows = tensor.shape[0] == row as u64 && tensor.shape[2..] == [1, 1];
    if rows { i64s(tensor) } else { None }
}

fn is_flat(tensor: &Tensor<'_>) -> bool {
    tensor.shape[1..] == [1, 1, 1]
}

fn flat_i64s(tensor: Tensor<'_>) -> Option<Vec<i64>> {
    Some(tensor).filter(is_flat).and_then(i64s)
}

fn flat_f64s(tensor: Tensor<'_>) -> Option<Vec<f64>> {
    let numbers = || tensor.data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    (tensor.dtype == DType::F64 && is_flat(&tensor)).then(numbers)
}

fn i64s(tensor: Tensor<'_>) -> Option<Vec<i64>> {
    let numbers = || tensor.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    (tensor.dtype == DType::I64).then(numbers)
}

fn tensor<T>(
    file: &File<'_>,
    name: String,
    expected: &str,
    convert: impl Fn(Tensor<'_>) -> Option<T>,
) -> Result<T, Error> {
    optional(file, name.clone(), expected, convert)?.ok_or_else(|| Error::Tensor {
        name,
        found: "missing".to_owned(),
        expected: expected.to_owned(),
    })
}

fn optional<T>(
    file: &File<'_>,
    name: String,
    expected: &str,
    convert: impl Fn(Tensor<'_>) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(tensor) = file.tensor(&name) else { return Ok(None) };
    let found = || format!("{} of shape {:?}", tensor.dtype, tensor.shape);
    match convert(tensor) {
        Some(value) => Ok(Some(value)),
        None => Err(Error::Tensor { name, found: found(), expected: expected.to_owned() }),
    }
}

fn likelihoods(file: &File<'_>, keys: &Keys<'_>) -> Result<Option<Likelihoods>, Error> {
    const CHUNKS: &str = "perplexity.chunks";
    const LENGTHS: &str = "perplexity.lengths";
    const TOKENS: &str = "perplexity.tokens";
    if file.get("perplexity.count").is_none() {
        return Ok(None);
    }
    let (sum, squares, count) =
        (keys.f64("perplexity.sum")?, keys.f64("perplexity.sum_of_squares")?, keys.u64("perplexity.count")?);
    let mut out = Likelihoods { running: Perplexity::from_parts(sum, squares, count), tokens: BTreeMap::new() };
    let Some(chunks) = optional(file, CHUNKS.to_owned(), COUNTS, flat_i64s)? else { return Ok(Some(out)) };
    let lengths = optional(file, LENGTHS.to_owned(), COUNTS, flat_i64s)?;
    let rows = if lengths.is_some() { 1 } else { chunks.len() as u64 };
    let nlls = |t: Tensor<'_>| {
        let shape = t.shape;
        let fits = t.dtype == DType::F64 && shape[0] > 0 && shape[1..] == [rows, 1, 1];
        fits.then(|| {
            (shape[0] as usize, t.data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect::<Vec<_>>())
        })
    };
    let (width, nlls) = tensor(file, TOKENS.to_owned(), &format!("f64 in {rows} rows"), nlls)?;
    let lengths = lengths.unwrap_or_else(|| vec![width as i64; chunks.len()]);
    if lengths.len() != chunks.len() || lengths.iter().any(|&length| length < 1) {
        return Err(Error::Likelihoods("'perplexity.lengths' does not have a positive length per chunk"));
    }
    let sum = lengths.iter().try_fold(0_i64, |sum, &length| sum.checked_add(length));
    if sum != i64::try_from(nlls.len()).ok() {
        return Err(Error::Likelihoods("'perplexity.tokens' and 'perplexity.lengths' differ in the number of tokens"));
    }
    if !chunks.is_sorted_by(|a, b| a < b) || chunks.first().is_some_and(|&chunk| chunk < 0) {
        return Err(Error::Likelihoods("the chunks in 'perplexity.chunks' are not in increasing order, or negative"));
    }
    let mut rest = nlls.as_slice();
    for (chunk, length) in chunks.into_iter().zip(lengths) {
        let (of_chunk, others) = rest.split_at_checked(length as usize).unwrap_or((rest, &[]));
        out.tokens.insert(chunk as u64, of_chunk.to_vec());
        rest = others;
    }
    Ok(Some(out))
}
