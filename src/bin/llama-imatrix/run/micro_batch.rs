//! Micro-batches for a model that does not fit into memory: `--ubatch-size auto`.
//!
//! Such a model is read from disk once per micro-batch, so a micro-batch should have as many chunks as the memory for
//! their activations allows. What is left holds the weights that are being used.

use std::time::Duration;

use anyhow::{Context as _, bail};
use llama_imatrix::evaluate::{Layout, ReadAhead, RunOptions, available_memory};
use llama_imatrix::llama::{ContextOptions, DeviceMemory, Model, ModelOptions, Outputs};
use llama_imatrix::options::LoadMode;
use llama_imatrix::state::{Fingerprint, State, model_files};

use super::settings;
use super::text::Text;
use super::weights::Weights;
use crate::args::Ubatch;
use crate::config::Collect;
use crate::ui::{log, units};

/// Maximum number of sequences in llama.cpp, and so of chunks per batch.
const MOST_CHUNKS: usize = 256;
/// Number of tokens below which a micro-batch of a part of a chunk is not made smaller.
const SMALLEST_PART: usize = 512;
/// Bytes per channel of an input that is converted for a product, in buffers that llama.cpp does not count.
const CONVERTED: u64 = 3;
/// Part of the available memory that is filled with weights before they are used.
const WINDOW: u64 = 16;
/// Mean number of tokens per expert in a micro-batch from which on nearly all experts have some, and are read ahead.
const ALL_EXPERTS: u64 = 8;
const MIB: u64 = 1 << 20;

/// `-b` and `-ub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) n_batch: usize,
    pub(crate) n_ubatch: usize,
}

impl Sizes {
    /// Whole chunks, in one piece.
    fn whole(chunks: usize, chunk_size: usize) -> Self {
        Self { n_batch: chunks * chunk_size, n_ubatch: chunks * chunk_size }
    }
}

/// How a run reads a model that does not fit into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Streaming {
    /// Bytes of weights that an evaluation reads.
    pub(crate) read: u64,
    /// Bytes of memory available to the run.
    available: u64,
    /// Bytes of the cache and the activations of a micro-batch.
    activations: u64,
    /// Number of micro-batches of the run: the model is read as often.
    pub(crate) passes: u64,
    /// Number of micro-batches of the first batch.
    passes_per_batch: u64,
    /// Tokens per micro-batch.
    n_ubatch: usize,
    /// Number of chunks.
    n_chunks: usize,
    pub(crate) read_ahead: ReadAhead,
}

impl Streaming {
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} of weights do not fit into {} of available memory beside {} of activations: they are read from disk {} for {} \
             chunks, once per micro-batch of {} tokens",
            units::bytes(self.read),
            units::bytes(self.available),
            units::bytes(self.activations),
            times(self.passes),
            self.n_chunks,
            self.n_ubatch
        )
    }

    /// Describes the speed, from the first batch, which took `seconds`.
    pub(crate) fn pace(&self, seconds: f32) -> String {
        let passes = self.passes_per_batch.max(1);
        let rest = f64::from(seconds) / passes as f64 * self.passes.saturating_sub(passes) as f64;
        format!(
            "reading {} and computing took {seconds:.1} s; {} more passes over the weights take about {}",
            units::bytes(self.read * passes),
            self.passes.saturating_sub(passes),
            units::duration(Duration::from_secs_f64(rest))
        )
    }
}

fn times(n: u64) -> String {
    if n == 1 { "once".to_owned() } else { format!("{n} times") }
}

/// Sets `-b` and `-ub` of the run if they are left to the program, and logs them. Returns how the weights are read if
/// they do not fit into memory. `options` returns the options of a run with the sizes of a task.
pub(crate) fn settle(
    task: &mut Collect,
    model: &Model,
    model_options: &ModelOptions,
    weights: Option<&Weights>,
    nextn: bool,
    text: &Text,
    options: &dyn Fn(&Collect, &Layout) -> RunOptions,
) -> anyhow::Result<Option<Streaming>> {
    let auto = task.flags.ubatch_size == Ubatch::Auto;
    let resumed = if auto { sizes_of_state(task)? } else { None };
    if let Some(sizes) = resumed {
        (task.n_batch, task.n_ubatch) = (sizes.n_batch, sizes.n_ubatch);
        log::info(format_args!("-b {} -ub {}, as in the state that is resumed", sizes.n_batch, sizes.n_ubatch));
    }
    let (Some(weights), Some(available)) = (weights, available_memory()) else {
        if auto {
            log::warn(format_args!(
                "--ubatch-size auto: this system does not report its available memory, or the model cannot be read; using -b {} \
                 -ub {}",
                task.n_batch, task.n_ubatch
            ));
        }
        return Ok(None);
    };
    let read = weights.read_per_evaluation(task.flags.process_output || !task.flags.no_ppl);
    if !is_mapped(task) || (!auto && read <= available) {
        return Ok(None);
    }
    let dry;
    let dry_model = if model_options.dry {
        model
    } else {
        dry = Model::load(&task.model, &ModelOptions { dry: true, ..model_options.clone() })?;
        &dry
    };
    let run = Run { task, dry_model, loaded: !model_options.dry, nextn, text, options, weights, available };
    let default = run.memory(Sizes { n_batch: task.n_batch, n_ubatch: task.n_ubatch })?;
    let Some(default) = default else {
        if auto {
            bail!(
                "--ubatch-size auto: this program was built without llama.cpp's memory estimate\n\
                 hint: choose -b and -ub"
            );
        }
        return Ok(None);
    };
    let read = read.min(default.mapped);
    if run.fits_with(read, &default) {
        if auto {
            log::info(format_args!("the model fits into memory: -b {} -ub {}", task.n_batch, task.n_ubatch));
        }
        return Ok(None);
    }
    let may_choose = match task.flags.ubatch_size {
        Ubatch::Auto => resumed.is_none(),
        Ubatch::Unset => task.shard.is_whole() && !nextn,
        Ubatch::Count(_) => false,
    };
    let chosen = if may_choose {
        let limits = Limits { chunk_size: text.chunks.size(), n_chunks: run.n_chunks(), most: run.most_chunks() };
        Some(choose(&limits, |sizes| run.fits(sizes))?)
    } else {
        None
    };
    let sizes = chosen.filter(|_| auto).unwrap_or(Sizes { n_batch: task.n_batch, n_ubatch: task.n_ubatch });
    if let Some(needed) = run.memory(sizes)?.filter(|needed| run.fits_with(read, needed)) {
        log::info(format_args!(
            "-b {} -ub {}: the model fits into memory beside {} of activations",
            sizes.n_batch,
            sizes.n_ubatch,
            units::bytes(needed.written)
        ));
        (task.n_batch, task.n_ubatch) = (sizes.n_batch, sizes.n_ubatch);
        return Ok(None);
    }
    let streaming = run.streaming(read, sizes)?;
    log::info(format_args!("-b {} -ub {}: {}", sizes.n_batch, sizes.n_ubatch, streaming.describe()));
    if let Some(better) = chosen.filter(|_| !auto) {
        let better = run.streaming(read, better)?;
        if better.passes < streaming.passes {
            log::info(format_args!(
                "hint: with --ubatch-size auto they are read {} (-ub {}); sums then differ by rounding, as with any other -ub",
                times(better.passes),
                better.n_ubatch
            ));
        }
    }
    (task.n_batch, task.n_ubatch) = (sizes.n_batch, sizes.n_ubatch);
    Ok(Some(streaming))
}

/// Returns the sizes of the run that is resumed: memory may have changed since it was started.
fn sizes_of_state(task: &Collect) -> anyhow::Result<Option<Sizes>> {
    let Some(resumed) = resumed(task)? else { return Ok(None) };
    let [n_batch, n_ubatch] = [resumed.n_batch, resumed.n_ubatch].map(|n| n as usize);
    Ok((n_batch > 0 && n_ubatch > 0).then_some(Sizes { n_batch, n_ubatch }))
}

/// Returns the fingerprint of the run that is resumed, if one is.
fn resumed(task: &Collect) -> anyhow::Result<Option<Fingerprint>> {
    if !task.flags.resume || !task.state_path.exists() {
        return Ok(None);
    }
    let shown = task.state_path.display();
    let state = State::load(&task.state_path).with_context(|| format!("cannot resume from '{shown}'"))?;
    Ok(Some(state.fingerprint))
}

/// Whether weights are repacked: sets `--no-repack` if that is left to the program and their copies would take too much
/// memory, and logs it. Must be called before the model is loaded.
pub(crate) fn settle_repacking(
    task: &mut Collect,
    options: &mut ModelOptions,
    weights: Option<&Weights>,
) -> anyhow::Result<()> {
    let (Some(weights), Some(available)) = (weights, available_memory()) else { return Ok(()) };
    // Copies have the size of what they copy.
    if options.no_repack || !is_mapped(task) || weights.read_per_evaluation(true) <= available / 2 {
        return Ok(());
    }
    let Some(Needed { repacked, written, .. }) = needed_by_default(task, options)? else { return Ok(()) };
    // What is written includes the copies.
    let fit = written + weights.sums(task) + margin(available) <= available;
    let too_large = repacked > available / 2 && !fit;
    let needed = format!(
        "{} of weights into a layout for this CPU, a batch needs {}, and {} of memory are available",
        units::bytes(repacked),
        units::bytes(written - repacked),
        units::bytes(available)
    );
    if task.flags.ubatch_size == Ubatch::Auto {
        let as_resumed = resumed(task)?.and_then(|run| run.flags.get("no-repack").map(|value| value == "true"));
        if as_resumed.unwrap_or(too_large) {
            (task.flags.no_repack, options.no_repack) = (true, true);
            log::info(format_args!("--no-repack: llama.cpp would copy {needed}"));
        }
    } else if too_large {
        log::warn(format_args!(
            "llama.cpp copies {needed}: the system may end this program\n\
             hint: --no-repack, or --ubatch-size auto"
        ));
    }
    Ok(())
}

/// Returns the memory of a run with the sizes of the flags, or llama.cpp's; `None` if this build cannot tell.
fn needed_by_default(task: &Collect, options: &ModelOptions) -> anyhow::Result<Option<Needed>> {
    let model = Model::load(&task.model, &ModelOptions { dry: true, ..options.clone() })?;
    let chunk_size = usize::try_from(task.merge.chunk_sizes.run).unwrap_or(0).max(1);
    let n_seq = (task.n_batch / chunk_size).max(1);
    let context = ContextOptions {
        n_ubatch: task.n_ubatch as u32,
        n_seq: n_seq as u32,
        flash_attention: settings::flash_attention(&task.flags),
        tuning: settings::tuning(task, &model)?,
        ..ContextOptions::new((n_seq * chunk_size) as u32, Outputs::Nothing)
    };
    Ok(model.memory_written(&context)?.map(|all| Needed::of(all, false)))
}

/// Bytes that no estimate counts.
fn margin(available: u64) -> u64 {
    available / 32
}

/// Returns true if the weights that stay as they are in the file are mapped, not read into memory.
fn is_mapped(task: &Collect) -> bool {
    matches!(task.flags.load_mode, LoadMode::Auto | LoadMode::Map)
}

/// A run whose sizes are not settled.
struct Run<'r> {
    task: &'r Collect,
    dry_model: &'r Model,
    /// True if the model's weights are on their devices, so that these have less memory free.
    loaded: bool,
    nextn: bool,
    text: &'r Text,
    options: &'r dyn Fn(&Collect, &Layout) -> RunOptions,
    weights: &'r Weights,
    available: u64,
}

/// Memory of a run with certain sizes.
struct Needed {
    /// Bytes of weights in host memory that stay in the file: it is read again for those that are dropped from memory.
    mapped: u64,
    /// Bytes of weights in host memory that are copied into another layout.
    repacked: u64,
    /// Bytes of host memory that an evaluation writes, and that loading has yet to fill with copies.
    written: u64,
    /// True if all devices have room.
    devices_fit: bool,
}

impl Needed {
    /// The sum of what a model and a context need; of a model that is `loaded`, without what it already has.
    fn of(all: Vec<DeviceMemory>, loaded: bool) -> Self {
        let mut needed = Self { mapped: 0, repacked: 0, written: 0, devices_fit: true };
        for DeviceMemory { device, weights, repacked, cache, compute } in all {
            match device {
                None => {
                    needed.mapped += (weights - repacked) as u64;
                    needed.repacked += repacked as u64;
                    let to_load = if loaded { 0 } else { repacked };
                    needed.written += (to_load + cache + compute) as u64;
                }
                Some(device) => {
                    let free = device.memory().0;
                    let free = if loaded { free } else { free.saturating_sub(weights) };
                    needed.devices_fit &= device.is_remote() || cache + compute <= free;
                }
            }
        }
        needed
    }
}

impl Run<'_> {
    fn layout(&self, sizes: Sizes) -> Layout {
        Layout::new(self.dry_model, self.nextn, &self.text.chunks, sizes.n_batch, sizes.n_ubatch)
    }

    fn memory(&self, sizes: Sizes) -> anyhow::Result<Option<Needed>> {
        let layout = self.layout(sizes);
        let options =
            RunOptions { n_batch: sizes.n_batch, n_ubatch: sizes.n_ubatch, ..(self.options)(self.task, &layout) };
        let context = options.context(&self.text.chunks, &layout, self.nextn);
        let Some(all) = self.dry_model.memory_written(&context)? else { return Ok(None) };
        let tokens = sizes.n_ubatch.min(layout.n_ctx) as u64;
        let converted = tokens.saturating_mul(self.weights.widest_input).saturating_mul(CONVERTED);
        let mut needed = Needed::of(all, self.loaded);
        needed.written += converted;
        Ok(Some(needed))
    }

    /// Returns true if a run that needs as much has memory left for `weights` bytes of weights that stay there, beside
    /// those that are used and those that are read ahead.
    fn fits_with(&self, weights: u64, needed: &Needed) -> bool {
        let in_use = (2 * self.weights.largest_matrix + self.window()).min(needed.mapped);
        let all = [weights, in_use, needed.written, self.weights.sums(self.task), margin(self.available)];
        all.into_iter().fold(0, u64::saturating_add) <= self.available
    }

    fn window(&self) -> u64 {
        (self.available / WINDOW).clamp(16 * MIB, 1024 * MIB)
    }

    fn fits(&self, sizes: Sizes) -> anyhow::Result<bool> {
        let Some(needed) = self.memory(sizes)? else { return Ok(false) };
        Ok(needed.devices_fit && self.fits_with(0, &needed))
    }

    fn n_chunks(&self) -> usize {
        self.text.chunks.len()
    }

    fn most_chunks(&self) -> usize {
        let most = self
            .task
            .flags
            .batch_size
            .map_or(MOST_CHUNKS, |n| usize::try_from(n).unwrap_or(1) / self.text.chunks.size());
        most.clamp(1, MOST_CHUNKS)
    }

    fn streaming(&self, read: u64, sizes: Sizes) -> anyhow::Result<Streaming> {
        let layout = self.layout(sizes);
        let part = layout.part(self.task.shard);
        let mut without = vec!["token_embd.weight".to_owned(), "per_layer_token_embd.weight".to_owned()];
        if self.task.flags.no_ppl && !self.task.flags.process_output {
            without.push("output.weight".to_owned());
        }
        // Experts without tokens need not be read.
        if let Some((experts, used)) = self.weights.experts
            && (sizes.n_ubatch as u64).saturating_mul(used) < experts.saturating_mul(ALL_EXPERTS)
        {
            without.extend(self.weights.expert_tensors.iter().cloned());
        }
        Ok(Streaming {
            read,
            available: self.available,
            activations: self.memory(sizes)?.map_or(0, |needed| needed.written),
            passes: layout.passes(&self.text.chunks, &part, sizes.n_ubatch),
            passes_per_batch: layout
                .batches
                .first()
                .map_or(1, |first| layout.passes(&self.text.chunks, first, sizes.n_ubatch)),
            n_ubatch: sizes.n_ubatch,
            n_chunks: part.len(),
            read_ahead: ReadAhead { files: model_files(&self.task.model)?, window: self.window(), without },
        })
    }
}

/// What the choice depends on besides memory.
struct Limits {
    chunk_size: usize,
    /// Number of chunks of the run.
    n_chunks: usize,
    /// Maximum number of chunks per batch.
    most: usize,
}

/// Returns the sizes that read the weights least often: as many whole chunks per micro-batch as fit, or else the largest
/// part of a chunk. Of sizes with as few passes, returns the smallest: batches are then even, and more memory is left.
fn choose(limits: &Limits, mut fits: impl FnMut(Sizes) -> anyhow::Result<bool>) -> anyhow::Result<Sizes> {
    let Limits { chunk_size, n_chunks, most } = *limits;
    if !fits(Sizes::whole(1, chunk_size))? {
        let mut part = chunk_size;
        while part > SMALLEST_PART {
            part = part.div_ceil(2);
            let sizes = Sizes { n_batch: chunk_size, n_ubatch: part };
            if fits(sizes)? {
                return Ok(sizes);
            }
        }
        return Ok(Sizes { n_batch: chunk_size, n_ubatch: part });
    }
    let (mut fitting, mut too_many) = (1, n_chunks.min(most) + 1);
    while fitting + 1 < too_many {
        let middle = usize::midpoint(fitting, too_many);
        if fits(Sizes::whole(middle, chunk_size))? {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    let passes = n_chunks.max(1).div_ceil(fitting);
    Ok(Sizes::whole(n_chunks.max(1).div_ceil(passes), chunk_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses with `memory` for activations that take 1 per token.
    fn chosen(chunk_size: usize, n_chunks: usize, most: usize, memory: usize) -> (usize, usize) {
        let limits = Limits { chunk_size, n_chunks, most };
        let sizes = choose(&limits, |sizes| Ok(sizes.n_ubatch <= memory)).unwrap();
        (sizes.n_batch, sizes.n_ubatch)
    }

    #[test]
    fn a_micro_batch_has_as_many_chunks_as_fit() {
        assert_eq!(chosen(512, 64, 256, 16 * 512), (8192, 8192));
        assert_eq!(chosen(512, 64, 256, 17 * 512 - 1), (8192, 8192));
        assert_eq!(chosen(512, 64, 256, 512), (512, 512));
    }

    #[test]
    fn passes_are_even_and_not_larger_than_the_text() {
        // 17 chunks fit, so four passes are needed, of 16 chunks each.
        assert_eq!(chosen(512, 64, 256, 17 * 512), (8192, 8192));
        assert_eq!(chosen(512, 10, 256, 1 << 30), (5120, 5120));
        assert_eq!(chosen(512, 10, 256, 9 * 512), (2560, 2560));
    }

    #[test]
    fn a_batch_has_at_most_the_tokens_of_b_and_the_sequences_of_llama_cpp() {
        assert_eq!(chosen(512, 1000, 4, 1 << 30), (2048, 2048));
        assert_eq!(chosen(512, 512, MOST_CHUNKS, 1 << 30), (256 * 512, 256 * 512));
    }

    #[test]
    fn a_chunk_that_does_not_fit_is_read_in_parts() {
        assert_eq!(chosen(32768, 8, 256, 10_000), (32768, 8192));
        assert_eq!(chosen(32768, 8, 256, 1), (32768, 512));
        assert_eq!(chosen(256, 8, 256, 1), (256, 256));
    }

    #[test]
    fn memory_is_asked_for_a_few_times() {
        let mut asked = 0;
        let limits = Limits { chunk_size: 512, n_chunks: 10_000, most: MOST_CHUNKS };
        choose(&limits, |sizes| {
            asked += 1;
            Ok(sizes.n_ubatch <= 100 * 512)
        })
        .unwrap();
        assert!(asked <= 10, "{asked}");
    }
}
