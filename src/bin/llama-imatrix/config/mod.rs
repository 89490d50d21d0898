//! Flags, checked and typed. Every mistake that can be found before a run is reported here.

mod collect;
mod convergence;
mod corpus;
pub(crate) mod dtype;
pub(crate) mod hints;
pub(crate) mod in_files;
mod lens;
mod matrices;
mod model;
pub(crate) mod output;
pub(crate) mod overlap;
pub(crate) mod replaceable;
mod threads;

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::calibration::Corpus;
use llama_imatrix::imatrix::{ChunkSizes, Format};
use llama_imatrix::state::Shard;

use crate::args::choices::{FillExperts, OutputFormat};
use crate::args::{Flags, Text};
use corpus::read_corpus;
use model::refuse_other_kinds;
use output::{DEFAULT_OUTPUT, Output, output_path};
use overlap::Files;

pub(crate) use collect::Collect;
pub(crate) use matrices::{Merge, ShowStatistics};
pub(crate) use threads::{Threads, default_threads};

/// llama.cpp's default for `-c`.
const DEFAULT_CHUNK_SIZE: i32 = 512;

/// The program's task.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) task: Task,
}

#[derive(Debug)]
pub(crate) enum Task {
    ShowStatistics(ShowStatistics),
    Merge(Merge),
    Collect(Box<Collect>),
}

impl Config {
    pub(crate) fn new(flags: Flags) -> anyhow::Result<Self> {
        let in_files = openable(&flags.in_file)?;
        if flags.show_statistics {
            let Some(file) = in_files.into_iter().next() else {
                bail!(
                    "--show-statistics requires a matrix, named by --in-file\n\
                     hint: llama-imatrix --show-statistics --in-file imatrix.gguf"
                );
            };
            let size = flags.legacy_chunk_size.unwrap_or(flags.ctx_size).max(1);
            Files::of_flags(&flags, Shard::WHOLE).refuse_overlap()?;
            return Ok(Self {
                task: Task::ShowStatistics(ShowStatistics {
                    file,
                    chunk_sizes: ChunkSizes { run: size, legacy: size },
                }),
            });
        }
        ensure!(flags.ctx_size > 0, "imatrix tool requires '--ctx-size' > 0, found {}", flags.ctx_size);
        let nextn = flags.collects_nextn();
        // Also where nothing is collected, as llama.cpp's tool.
        ensure!(
            !nextn || flags.batch_size() / flags.ctx_size <= 1,
            "'--nextn' and '--model-draft' need a single sequence per batch, set '--batch-size' to at most \
             '--ctx-size' ({}), found {}",
            flags.ctx_size,
            flags.batch_size()
        );

        refuse_other_kinds(&flags)?;
        let (corpus, datasets) = read_corpus(&flags)?;
        refuse_empty_text(&flags, &corpus)?;
        ensure!(!flags.dry_run || !corpus.is_empty(), "--dry-run needs a text (-f or -p)");
        ensure!(flags.dry_run || flags.tokens_per_second.is_none(), "--tokens-per-second requires --dry-run");
        let format = flags.output_format.map(|format| match format {
            OutputFormat::Dat => Format::Dat,
            OutputFormat::Gguf => Format::Gguf,
        });
        let shard = shard(&flags)?;
        ensure!(shard.is_whole() || !corpus.is_empty(), "--shard needs a text (-f or -p)");
        let mut files = Files::of_flags(&flags, shard);
        corpus.files.iter().for_each(|file| files.read("--file", file.into()));
        files.refuse_overlap()?;
        refuse_default_output(&flags, &corpus)?;
        let format = if shard.is_whole() { format } else { Some(Format::Gguf) };
        let output = Output::new(output_path(&flags, shard), format)?.with_filled_experts(fill_below(&flags, shard)?);
        // In a merge -c can only mean the chunks of files that do not say; in a run it is the run's, and a legacy file's
        // are most likely of llama.cpp's default size.
        let legacy = if corpus.is_empty() { flags.ctx_size } else { DEFAULT_CHUNK_SIZE };
        let legacy = flags.legacy_chunk_size.unwrap_or(legacy);
        ensure!(legacy > 0, "--legacy-chunk-size must be above 0, found {legacy}");
        let chunk_sizes = ChunkSizes { run: flags.ctx_size, legacy };
        let merge = Merge { in_files, chunk_sizes, output };
        if corpus.is_empty() {
            ensure!(
                !merge.in_files.is_empty(),
                "no prompt provided (-f or -p) and no precomputed matrices (--in-file) to combine\n\
                 hint: llama-imatrix -m MODEL -f TEXT collects a matrix; -h lists the commands and the flags used most"
            );
            refuse_flags_of_runs(&flags)?;
            return Ok(Self { task: Task::Merge(merge) });
        }
        Collect::new(flags, merge, corpus, datasets, shard, files)
            .map(|task| Self { task: Task::Collect(Box::new(task)) })
    }
}

/// Returns the shard of the run that this process evaluates.
fn shard(flags: &Flags) -> anyhow::Result<Shard> {
    match flags.shard.as_deref() {
        None => Ok(Shard::WHOLE),
        Some("auto") => Ok(Shard::auto(|name| std::env::var(name).ok())?),
        Some(shard) => Ok(shard.parse()?),
    }
}

/// Returns the number of tokens below which experts are filled; `None` if none are.
fn fill_below(flags: &Flags, shard: Shard) -> anyhow::Result<Option<i64>> {
    if flags.fill_experts == FillExperts::None {
        ensure!(flags.fill_below.is_none(), "--fill-below requires --fill-experts layer or shown");
        return Ok(None);
    }
    ensure!(
        shard.is_whole(),
        "--fill-experts cannot be combined with --shard: no shard knows what the others have seen\n\
         hint: llama-imatrix merge --fill-experts layer fills experts of the whole run"
    );
    Ok(Some(flags.fill_below.unwrap_or(1)))
}

/// Refuses a text without a byte: llama.cpp's tool would take the command for a merge.
fn refuse_empty_text(flags: &Flags, corpus: &Corpus) -> anyhow::Result<()> {
    let what = match &flags.text {
        Some(Text::Files(files)) if corpus.is_empty() && flags.in_file.is_empty() => match &files[..] {
            [one] => format!("'{}' is empty", one.path.display()),
            files => format!("all {} texts are empty", files.len()),
        },
        Some(Text::Prompt(_)) if corpus.is_empty() && flags.in_file.is_empty() => "--prompt is empty".to_owned(),
        _ => return Ok(()),
    };
    bail!("{what}, so there is nothing to evaluate\nhint: name a file with text, by --file")
}

/// Refuses flags that need a model and a text, when there is no text: they would have no effect.
fn refuse_flags_of_runs(flags: &Flags) -> anyhow::Result<()> {
    let given = [
        (flags.logit_lens, "--logit-lens"),
        (flags.logit_prism, "--logit-prism"),
        (flags.layer_similarity, "--layer-similarity"),
        (flags.resume, "--resume"),
        (flags.stop_when_covered.is_some(), "--stop-when-covered"),
        (flags.convergence, "--convergence"),
        (flags.stop_when_converged.is_some(), "--stop-when-converged"),
        (flags.fill_experts == FillExperts::Shown, "--fill-experts shown"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        Some((_, flag)) => bail!(
            "{flag} needs a model and a text, and there is no text (-f or -p)\n\
             hint: llama-imatrix -m MODEL -f TEXT {flag}"
        ),
        None => Ok(()),
    }
}

/// Refuses a merge without `-o` that would replace one of its inputs.
fn refuse_default_output(flags: &Flags, corpus: &Corpus) -> anyhow::Result<()> {
    if flags.output.is_some() || !corpus.is_empty() {
        return Ok(());
    }
    let mut files = Files::default();
    flags.in_file.iter().for_each(|file| files.read("--in-file", file.into()));
    files.write("the default output", DEFAULT_OUTPUT.into());
    files.refuse_overlap()
}

/// Returns the files of `--in-file`, if all can be opened.
fn openable(files: &[String]) -> anyhow::Result<Vec<String>> {
    for file in files {
        // A pipe is left for the one who reads it: opening it waits for a writer, who ends with what opened it.
        let opens = std::fs::metadata(file)
            .and_then(|metadata| if metadata.is_file() { std::fs::File::open(file).map(drop) } else { Ok(()) });
        opens.with_context(|| format!("failed to open file '{file}'"))?;
    }
    Ok(files.to_vec())
}
