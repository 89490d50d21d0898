//! Writes a state file.

use std::io;

use super::{
    Error, Fingerprint, Group, ModelFingerprint, Progress, SharedSums, State, VERSION, measurements, sample, seal,
};
use crate::exact::{ExactEntry, SQUARE_WORDS, SUM_WORDS};
use crate::gguf::{DType, Value, Writer};
use crate::imatrix::Entry;
use crate::sums::Half;

/// `general.type` of a state file.
pub const KIND: &str = "imatrix-state";
pub(super) const CHECKSUM: &str = "checksum";
pub(super) const CURVE: &str = "convergence.curve";

pub(super) fn write(state: &State<'_>, w: impl io::Write) -> Result<(), Error> {
    let mut file = Writer::new();
    file.set("general.type", KIND).set("state.version", VERSION);
    set_progress(&mut file, &state.progress);
    let output = &state.output;
    file.set("imatrix.datasets", output.datasets.clone());
    file.set("imatrix.chunk_size", output.chunk_size);
    file.set("imatrix.n_layer_nextn", output.n_layer_nextn);
    if let Some(base) = &output.base {
        file.set("state.base", base.to_string());
    }
    set_fingerprint(&mut file, &state.fingerprint);
    match &state.sums {
        SharedSums::F32(groups) => add_groups(&mut file, groups, add_f32)?,
        SharedSums::Exact(groups) => add_groups(&mut file, groups, add_exact)?,
    }
    if !state.curve.is_empty() {
        file.set(CURVE, serde_json::to_string(&state.curve).map_err(std::io::Error::from)?);
    }
    add_likelihoods(&mut file, state)?;
    measurements::write(&mut file, state.measurements.as_ref())?;
    sample::write(&mut file, state.sample.as_ref())?;
    file.tensor(CHECKSUM, DType::I64, &[seal::BYTES as u64 / 8], vec![0; seal::BYTES])?;
    let mut sealing = seal::Sealing::new(w);
    file.write_to(&mut sealing)?;
    sealing.finish()?;
    Ok(())
}

fn set_progress(file: &mut Writer<'_>, progress: &Progress) {
    let ranges = |set: &super::ChunkSet| set.ranges().iter().flat_map(|r| [r.start, r.end]).collect::<Vec<u64>>();
    file.set("state.chunks", progress.n_chunks);
    file.set("state.done", ranges(&progress.done));
    file.set("state.discarded", ranges(&progress.discarded));
    file.set("state.shard", vec![progress.shard.index(), progress.shard.count()]);
    file.set("state.tokens", progress.tokens);
    file.set("state.chunk_count", progress.chunk_count);
}

fn set_fingerprint(file: &mut Writer<'_>, fingerprint: &Fingerprint) {
    set_model(file, "model", &fingerprint.model);
    if let Some(draft) = &fingerprint.draft {
        set_model(file, "draft", draft);
    }
    file.set("fingerprint.text", fingerprint.text.to_string());
    file.set("fingerprint.tokens", fingerprint.n_tokens);
    file.set("fingerprint.chunk_size", fingerprint.chunk_size);
    file.set("fingerprint.batch", fingerprint.n_batch);
    file.set("fingerprint.ubatch", fingerprint.n_ubatch);
    file.set("fingerprint.accumulate", fingerprint.accumulate.name());
    file.set("fingerprint.llama_cpp", fingerprint.llama_cpp.as_str());
    let flags: Vec<String> = fingerprint.flags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    file.set("fingerprint.flags", flags);
}

fn set_model(file: &mut Writer<'_>, which: &str, model: &ModelFingerprint) {
    let mut set = |field: &str, value: Value| {
        file.set(format!("fingerprint.{which}.{field}"), value);
    };
    set("architecture", model.architecture.as_str().into());
    set("tensors", model.n_tensors.into());
    set("bytes", model.n_bytes.into());
    set("layout", model.layout.to_string().into());
    set("sample", model.sample.to_string().into());
}

/// Adds the weights with the numbers of their sums, then the sums under these numbers: the name of a weight may be
/// longer than ggml allows for a tensor.
fn add_groups<'a, E: Clone>(
    file: &mut Writer<'a>,
    groups: &'a [Group<'_, E>],
    add: impl Fn(&mut Writer<'a>, usize, &'a E) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut weights: Vec<(&String, u32)> = Vec::new();
    for (i, group) in (0..).zip(groups) {
        weights.extend(group.weights.iter().map(|weight| (weight, i)));
    }
    weights.sort();
    file.set("state.weights", weights.iter().map(|(weight, _)| (*weight).clone()).collect::<Vec<String>>());
    file.set("state.weight_sums", weights.iter().map(|&(_, i)| i).collect::<Vec<u32>>());
    groups.iter().enumerate().try_for_each(|(i, group)| {
        add(file, i, &group.entry)?;
        group.even.as_deref().map_or(Ok(()), |even| add_half(file, i, even))
    })
}

fn add_half(file: &mut Writer<'_>, i: usize, even: &Half) -> Result<(), Error> {
    let bytes: Vec<u8> = even.sum2.iter().flat_map(|value| value.to_le_bytes()).collect();
    file.tensor(format!("even.{i}.in_sum2"), DType::F64, &[even.sum2.len() as u64], bytes)?;
    file.i64_tensor(format!("even.{i}.counts"), &[even.counts.len() as u64], even.counts.clone())?;
    Ok(())
}

fn add_f32<'a>(file: &mut Writer<'a>, i: usize, entry: &'a Entry) -> Result<(), Error> {
    file.f32_tensor(format!("sums.{i}.in_sum2"), &[entry.sum2.len() as u64], &entry.sum2)?;
    if let Some(sum) = &entry.sum {
        file.f32_tensor(format!("sums.{i}.in_sum"), &[sum.len() as u64], sum)?;
    }
    file.i64_tensor(format!("sums.{i}.counts"), &[entry.counts.len() as u64], &entry.counts)?;
    Ok(())
}

fn add_exact<'a>(file: &mut Writer<'a>, i: usize, entry: &'a ExactEntry) -> Result<(), Error> {
    let values = entry.len() as u64;
    file.i64_tensor(format!("sums.{i}.in_sum2"), &[SQUARE_WORDS as u64, values], &entry.sum2)?;
    if let Some(sum) = &entry.sum {
        file.i64_tensor(format!("sums.{i}.in_sum"), &[SUM_WORDS as u64, values], sum)?;
    }
    file.i64_tensor(format!("sums.{i}.counts"), &[entry.counts.len() as u64], &entry.counts)?;
    Ok(())
}

fn add_likelihoods(file: &mut Writer<'_>, state: &State<'_>) -> Result<(), Error> {
    let Some(likelihoods) = &state.likelihoods else { return Ok(()) };
    let (sum, sum_of_squares, count) = likelihoods.running.to_parts();
    file.set("perplexity.sum", sum).set("perplexity.sum_of_squares", sum_of_squares);
    file.set("perplexity.count", count);
    let chunks: Vec<i64> = likelihoods.tokens.keys().map(|&chunk| chunk as i64).collect();
    let Some(width) = likelihoods.tokens.values().next().map(Vec::len) else { return Ok(()) };
    let shape = [width as u64, chunks.len() as u64];
    file.i64_tensor("perplexity.chunks", &shape[1..], chunks)?;
    let bytes: Vec<u8> = likelihoods.tokens.values().flatten().flat_map(|nll| nll.to_le_bytes()).collect();
    // Chunks of documents differ in length.
    let lengths: Vec<i64> = likelihoods.tokens.values().map(|nlls| nlls.len() as i64).collect();
    if lengths.iter().all(|&length| length == width as i64) {
        file.tensor("perplexity.tokens", DType::F64, &shape, bytes)?;
    } else {
        let n_tokens = lengths.iter().sum::<i64>() as u64;
        file.i64_tensor("perplexity.lengths", &shape[1..], lengths)?;
        file.tensor("perplexity.tokens", DType::F64, &[n_tokens], bytes)?;
    }
    Ok(())
}
