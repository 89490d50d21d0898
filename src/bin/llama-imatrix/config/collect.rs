//! A run over a text: its flags, checked and typed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::atomic_file::Way;
use llama_imatrix::calibration::{ChunkOptions, Corpus, TokenOptions};
use llama_imatrix::options::SumOn;
use llama_imatrix::state::{Accumulate, Shard};

use super::convergence::Convergence;
use super::lens::Lens;
use super::matrices::Merge;
use super::output::{Output, check_way, state_path};
use super::overlap::Files;
use super::threads::{Threads, at_least_one, default_threads};
use crate::args::choices::Nan;
use crate::args::{Cpu, Flags, Ubatch};
use crate::ui::log;

/// A run over a text.
#[derive(Debug)]
pub(crate) struct Collect {
    pub(crate) merge: Merge,
    pub(crate) model: PathBuf,
    /// True if the NextN layer is collected too, from the draft if there is one.
    pub(crate) nextn: bool,
    pub(crate) draft_model: Option<PathBuf>,
    pub(crate) corpus: Corpus,
    /// Names of its files, as the matrix stores them.
    pub(crate) datasets: Vec<String>,
    /// True if each document is evaluated for itself.
    pub(crate) documents: bool,
    pub(crate) tokens: TokenOptions,
    pub(crate) chunks: ChunkOptions,
    /// Chunks that may be discarded; `None` for a share of the chunks.
    pub(crate) max_bad_chunks: Option<usize>,
    pub(crate) min_rows: u32,
    pub(crate) flags: Flags,
    pub(crate) n_batch: usize,
    pub(crate) n_ubatch: usize,
    pub(crate) threads: Threads,
    pub(crate) threads_batch: Threads,
    pub(crate) n_threads: i32,
    pub(crate) n_threads_batch: i32,
    pub(crate) accumulate: Accumulate,
    pub(crate) shard: Shard,
    /// Path of the run's state.
    pub(crate) state_path: PathBuf,
    /// How the state file is written; `None` if the run keeps no state.
    pub(crate) state_way: Option<Way>,
    pub(crate) lens: Option<Lens>,
    pub(crate) convergence: Option<Convergence>,
}

impl Collect {
    pub(super) fn new(
        flags: Flags,
        merge: Merge,
        corpus: Corpus,
        datasets: Vec<String>,
        shard: Shard,
        mut files: Files,
    ) -> anyhow::Result<Self> {
        let accumulate = match flags.accumulate {
            None if shard.is_whole() => Accumulate::F32,
            None => Accumulate::F64,
            Some(accumulate) => accumulate,
        };
        ensure!(
            shard.is_whole() || accumulate == Accumulate::F64,
            "--shard cannot be combined with --accumulate f32: f32 sums depend on the order of chunks, so shards would not merge exactly"
        );
        ensure!(
            flags.sum_on != SumOn::Device || accumulate == Accumulate::F32,
            "--sum-on device cannot be combined with --accumulate f64: devices keep sums in f32"
        );
        ensure!(
            shard.is_whole() || merge.in_files.is_empty(),
            "--shard cannot be combined with --in-file\nhint: merge the shards first, and their matrix with the --in-file"
        );
        ensure!(
            flags.model.is_some() || flags.remote.named().is_some(),
            "--model is required: a text is evaluated by a model\nhint: llama-imatrix -m MODEL -f TEXT"
        );
        refuse_auto(&flags, shard)?;
        let positive = |name: &str, value: i32| {
            usize::try_from(value)
                .ok()
                .filter(|&n| n > 0)
                .with_context(|| format!("{name} must be above 0, found {value}"))
        };
        ensure!(flags.chunk >= 0, "--chunk must be 0 or above, found {}", flags.chunk);
        if let (Some(tokens), false) = (flags.tokens, flags.documents) {
            ensure!(
                tokens >= flags.ctx_size as u64,
                "--tokens {tokens} is less than one chunk of {} tokens (--ctx-size)\nhint: lower --ctx-size, or evaluate --documents",
                flags.ctx_size
            );
        }
        match flags.chunks {
            // As llama.cpp's tool does: nothing is evaluated, and a matrix is written all the same.
            0 => log::warn(format_args!(
                "--chunks 0 evaluates nothing of the text: the matrix will hold the sums of --in-file alone; --chunks -1 \
                 evaluates all"
            )),
            ..=-2 => log::warn(format_args!("--chunks {} evaluates all chunks, as -1 does", flags.chunks)),
            _ => {}
        }
        if flags.documents && flags.keep_tail {
            log::warn(format_args!("--keep-tail has no effect: --documents drops no tokens"));
        }
        let n_threads = flags.cpu.threads.map_or_else(default_threads, at_least_one);
        let n_threads_batch = flags.cpu_batch.threads.map_or(n_threads, at_least_one);
        let threads = Threads::new(&flags.cpu, &Cpu::default());
        let threads_batch = Threads::new(&flags.cpu_batch, &flags.cpu);
        threads.warn_of_few_cpus(n_threads);
        if threads_batch.cpus != threads.cpus || n_threads_batch != n_threads {
            threads_batch.warn_of_few_cpus(n_threads_batch);
        }
        if flags.defrag_thold {
            log::warn(format_args!("DEPRECATED: --defrag-thold is deprecated and no longer necessary to specify"));
        }
        let convergence = Convergence::new(&flags, &merge, shard)?;
        let lens = Lens::new(&flags, &merge.output)?;
        let state_path = state_path(merge.output.path(), shard);
        let state_way = state_way(&flags, &merge.output, shard, &state_path)?;
        let n_batch = positive("--batch-size", flags.batch_size())?;
        let n_ubatch = positive("--ubatch-size", flags.ubatch_size.tokens())?;
        // Last: a download is long, and all else that is wrong is told before it.
        let model = model_path(&flags)?;
        files.read("--model", model.clone());
        if flags.remote.named().is_none() {
            files.refuse_overlap()?;
        }
        Ok(Self {
            model,
            nextn: flags.collects_nextn(),
            draft_model: flags.draft_model.clone(),
            corpus,
            datasets,
            documents: flags.documents,
            tokens: token_options(&flags),
            chunks: chunk_options(&flags)?,
            max_bad_chunks: if flags.nan == Nan::Abort { Some(0) } else { flags.max_bad_chunks },
            min_rows: flags.min_rows(),
            n_batch,
            n_ubatch,
            threads,
            threads_batch,
            n_threads,
            n_threads_batch,
            accumulate,
            shard,
            state_path,
            state_way,
            lens,
            convergence,
            merge,
            flags,
        })
    }
}

/// Refuses `--ubatch-size auto` where batches must not depend on the memory of a machine, or have one chunk.
fn refuse_auto(flags: &Flags, shard: Shard) -> anyhow::Result<()> {
    if flags.ubatch_size != Ubatch::Auto {
        return Ok(());
    }
    ensure!(
        shard.is_whole(),
        "--ubatch-size auto cannot be combined with --shard: all shards must have the same batches, and machines may differ in \
         memory\nhint: --dry-run without --shard prints the sizes for a machine; give them to all shards with -b and -ub"
    );
    ensure!(
        !flags.collects_nextn(),
        "--ubatch-size auto cannot be combined with '--nextn' or '--model-draft', which need a single sequence per batch\n\
         hint: -b {0} -ub {0} evaluates one chunk per pass",
        flags.ctx_size
    );
    Ok(())
}

/// Without `--documents` it is chunks that are drawn and counted: all of the text is needed.
fn token_options(flags: &Flags) -> TokenOptions {
    TokenOptions {
        parse_special: flags.parse_special,
        shuffle: (flags.shuffle && flags.documents).then_some(flags.seed),
        budget: flags.tokens.filter(|_| flags.documents),
    }
}

fn chunk_options(flags: &Flags) -> anyhow::Result<ChunkOptions> {
    let size = flags.ctx_size as usize;
    let within_budget = flags.tokens.filter(|_| !flags.documents);
    let within_budget = within_budget.map(|budget| usize::try_from(budget / size as u64).unwrap_or(usize::MAX));
    Ok(ChunkOptions {
        size,
        skip: usize::try_from(flags.chunk)?,
        limit: [usize::try_from(flags.chunks).ok(), within_budget].into_iter().flatten().min(),
        keep_tail: flags.keep_tail,
        shuffle: flags.shuffle.then_some(flags.seed),
    })
}

/// Returns how the state is written, `None` if the run keeps none. If it cannot, that is an error where a flag asked for it,
/// else a warning.
fn state_way(flags: &Flags, output: &Output, shard: Shard, path: &Path) -> anyhow::Result<Option<Way>> {
    let asked = [
        (!shard.is_whole(), "--shard"),
        (flags.resume, "--resume"),
        (flags.state_frequency.is_some(), "--state-frequency"),
    ];
    let asked = asked.into_iter().find_map(|(asked, flag)| asked.then_some(flag));
    if let (Some(flag), false) = (asked, output.is_file()) {
        bail!(
            "{flag} requires a regular file as --output, because the state is saved beside it; found '{0}'\n\
             hint: leave out {flag}, or name a file with --output",
            output.path().display()
        );
    }
    if !output.is_file() {
        if flags.state_interval > 0 {
            log::info(format_args!("'{}' is not a regular file: the run keeps no state", output.path().display()));
        }
        return Ok(None);
    }
    match (asked, flags.state_interval) {
        (None, 0) => Ok(None),
        // A shard's is the output, which has been checked.
        (Some(_), _) if !shard.is_whole() => Ok(Some(output.way())),
        (Some(_), _) => check_way(path).map(Some),
        (None, _) => Ok(check_way(path)
            .inspect_err(|error| log::warn(format_args!("{error:#}; the run keeps no state")))
            .ok()
            .filter(|&way| way != Way::Stream)),
    }
}

/// Returns the model's file, downloaded if a flag says so.
fn model_path(flags: &Flags) -> anyhow::Result<PathBuf> {
    let Some((flag, value)) = flags.remote.named() else {
        return flags.model.clone().context("--model is required");
    };
    #[cfg(feature = "download")]
    return crate::download::model(flags).with_context(|| format!("{flag} {}", crate::download::masked(value)));
    #[cfg(not(feature = "download"))]
    bail!(
        "{flag} {value}: this program was built without downloads: build with --features download, or name a file \
         with --model"
    );
}
