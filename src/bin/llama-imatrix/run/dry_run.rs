//! `--dry-run`: the size of a run, and the memory it needs.

use llama_imatrix::calibration::Chunks;
use llama_imatrix::evaluate::{Layout, RunOptions};
use llama_imatrix::llama::{Backend, Device, DeviceMemory, Model};
use llama_imatrix::nextn::Layer;
use std::fmt::Write as _;

use super::micro_batch::Streaming;
use super::text::Text;
use super::weights::Weights;
use crate::config::Collect;
use crate::ui::print::print_document;

/// Prints the report.
pub(crate) fn report(
    task: &Collect,
    model: &Model,
    nextn: Option<&Layer<'_>>,
    text: &Text,
    layout: &Layout,
    options: &RunOptions,
    streaming: Option<&Streaming>,
) -> anyhow::Result<()> {
    let part = options.part.clone().unwrap_or(0..text.chunks.len());
    let tokens: u64 = part.clone().map(|chunk| text.chunks.get(chunk).len() as u64).sum();
    let weights = Weights::of(&task.model);
    let mut out = String::new();
    let mut line = |name: &str, what: String| {
        let _ = writeln!(out, "{name:<11} {what}");
    };
    line("text", in_text(task, text));
    line("chunks", in_chunks(task, &text.chunks, part.len(), tokens));
    line("batches", format!("{}, -b {} -ub {}", in_batches(layout, part.clone()), task.n_batch, task.n_ubatch));
    if let Some(streaming) = streaming {
        line("reading", streaming.describe());
    }
    let lanes = options.lanes(layout, &text.chunks, nextn.is_some());
    line("lanes", lanes.to_string());
    for memory in memory(task, model, &text.chunks, layout, options, nextn.is_some(), lanes, weights.as_ref())? {
        line("memory", memory);
    }
    if let Some(weights) = &weights {
        let scored =
            if options.perplexity { part.map(|chunk| text.chunks.scored(chunk).len() as u64).sum() } else { 0 };
        let output = if task.flags.process_output { tokens } else { scored };
        let operations = 2.0 * (weights.active as f64 * tokens as f64 + weights.output as f64 * output as f64);
        line(
            "work",
            format!(
                "{operations:.2e} operations in matrix products: 2 per token and weight, for {:.1} million weights per token, the output \
                 matrix for {output} tokens; attention not included",
                weights.active as f64 / 1e6
            ),
        );
    }
    line(
        "time",
        match task.flags.tokens_per_second {
            Some(speed) => format!("{} at {speed} tokens per second", duration(tokens as f64 / f64::from(speed))),
            None => {
                "unknown, since nothing was computed; hint: --tokens-per-second N, with the speed at the end of an earlier \
                     run's log"
                    .to_owned()
            }
        },
    );
    print_document(&out)
}

fn in_text(task: &Collect, text: &Text) -> String {
    let files = match task.datasets.len() {
        0 => "a prompt".to_owned(),
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    if task.documents {
        format!("{} tokens in {} documents of {files}", text.n_tokens, text.n_documents)
    } else {
        format!("{} tokens of {files}", text.n_tokens)
    }
}

fn in_chunks(task: &Collect, chunks: &Chunks, n_chunks: usize, tokens: u64) -> String {
    let size = if task.documents { format!("up to {}", chunks.size()) } else { chunks.size().to_string() };
    let shard = if task.shard.is_whole() {
        String::new()
    } else {
        format!(", shard {}/{} of {}", task.shard.index(), task.shard.count(), chunks.len())
    };
    format!("{n_chunks} of {size} tokens, {tokens} tokens in all{shard}")
}

fn in_batches(layout: &Layout, part: std::ops::Range<usize>) -> String {
    let n = layout.batches.iter().filter(|batch| part.contains(&batch.start)).count();
    format!("{n} of up to {} tokens in {} sequences", layout.n_ctx, layout.n_seq)
}

#[expect(clippy::too_many_arguments, reason = "all that decides what memory a run takes")]
fn memory(
    task: &Collect,
    model: &Model,
    chunks: &Chunks,
    layout: &Layout,
    options: &RunOptions,
    nextn: bool,
    lanes: usize,
    weights: Option<&Weights>,
) -> anyhow::Result<Vec<String>> {
    let Some(all) = model.memory_needed(&options.context(chunks, layout, nextn))? else {
        return Ok(vec!["unknown: this program was built without llama.cpp's memory estimate".to_owned()]);
    };
    let sums = weights.map_or(0, |weights| weights.sums(task));
    let mut lines: Vec<String> = all.iter().map(|memory| on_device(memory, lanes, sums)).collect();
    if nextn || !task.flags.lora.is_empty() || !task.flags.control_vectors.is_empty() {
        lines.push("not counted are NextN contexts, adapters and control vectors".to_owned());
    }
    Ok(lines)
}

fn on_device(memory: &DeviceMemory, lanes: usize, sums: u64) -> String {
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / 1_048_576.0);
    let DeviceMemory { device, weights, cache, compute, .. } = *memory;
    let mut all = weights + lanes * (cache + compute);
    let mut what = vec![format!("weights {}", mib(weights as f64))];
    let times = if lanes > 1 { format!(" for each of {lanes} lanes") } else { String::new() };
    what.push(format!("cache {} and computing {}{times}", mib(cache as f64), mib(compute as f64)));
    let cpu = Backend::init().devices().into_iter().find(|device| device.is_cpu());
    if device.is_none() {
        what.push(format!("sums up to {}", mib(sums as f64)));
        all += sums as usize;
    }
    let name = device.map_or_else(|| "host".to_owned(), Device::name);
    let (free, total) = device.or(cpu).map_or((0, 0), Device::memory);
    let free = if total > 0 { format!("; {} are free", mib(free as f64)) } else { String::new() };
    format!("{name}: {} ({}){free}", mib(all as f64), what.join(", "))
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_rounded_to_two_units() {
        assert_eq!(duration(12.3), "12 s");
        assert_eq!(duration(100.0), "2 min");
        assert_eq!(duration(3600.0 * 5.0 + 600.0), "5 h 10 min");
    }
}
