//! Flags, checked and made ready: whatever can be told to be wrong before the run is told here.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::atomic_file::Way;
use llama_imatrix::calibration::{Body, Corpus, Layout};
use llama_imatrix::imatrix::{ChunkSizes, Format};
use llama_imatrix::lens::base::LogitsFile;
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::state::{Accumulate, Shard};

use crate::flags::{Cpu, Flags, OutputFormat, Text};
use crate::log;
use crate::output::{DEFAULT_OUTPUT, Output, check_way, output_path, state_path};
use crate::overlap::Files;
use crate::replaceable::refuse_foreign_lens;

/// llama.cpp's default for `-c`.
const DEFAULT_CHUNK_SIZE: i32 = 512;

/// What to do.
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

#[derive(Debug)]
pub(crate) struct ShowStatistics {
    pub(crate) file: String,
    pub(crate) chunk_sizes: ChunkSizes,
}

/// Matrices to read, and where the result goes.
#[derive(Debug)]
pub(crate) struct Merge {
    pub(crate) in_files: Vec<String>,
    pub(crate) chunk_sizes: ChunkSizes,
    pub(crate) output: Output,
}

#[derive(Debug)]
pub(crate) struct Collect {
    pub(crate) merge: Merge,
    pub(crate) model: PathBuf,
    /// Whether the NextN layer is collected too, from the draft where there is one.
    pub(crate) nextn: bool,
    pub(crate) draft_model: Option<PathBuf>,
    pub(crate) corpus: Corpus,
    /// The names of its files in the matrix.
    pub(crate) datasets: Vec<String>,
    /// The order in which documents or chunks are taken, if it is a random one.
    pub(crate) shuffle: Option<u64>,
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
    /// Where the run's state goes, if it is kept.
    pub(crate) state_path: PathBuf,
    pub(crate) keeps_state: bool,
    pub(crate) lens: Option<Lens>,
}

/// What is to be said about the layers.
#[derive(Debug)]
pub(crate) struct Lens {
    /// Where it goes; `None` where the matrix goes to no regular file, which has none beside it.
    pub(crate) path: Option<PathBuf>,
    /// The predictions to hold them against, if not the model's own.
    pub(crate) base: Option<Arc<LogitsFile>>,
}

/// How threads run; how many is told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Threads {
    /// CPUs by number; empty for all.
    pub(crate) cpus: Vec<bool>,
    pub(crate) strict: bool,
    pub(crate) prio: i32,
    pub(crate) poll: u32,
}

impl Config {
    pub(crate) fn new(flags: Flags) -> anyhow::Result<Self> {
        let in_files = openable(&flags.in_file)?;
        if flags.show_statistics {
            let Some(file) = in_files.into_iter().next() else {
                bail!("--show-statistics needs a matrix, give it with --in-file");
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
            !nextn || flags.batch_size / flags.ctx_size <= 1,
            "'--nextn' and '--model-draft' need a single sequence per batch, set '--batch-size' to at most \
             '--ctx-size' ({}), found {}",
            flags.ctx_size,
            flags.batch_size
        );

        let (corpus, datasets) = read_corpus(&flags)?;
        ensure!(!flags.dry_run || !corpus.is_empty(), "--dry-run needs a text (-f or -p)");
        ensure!(flags.dry_run || flags.tokens_per_second.is_none(), "--tokens-per-second is for --dry-run");
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
        let output = Output::new(output_path(&flags, shard), format)?;
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
                "no prompt provided (-f or -p) and no precomputed matrices (--in-file) to combine"
            );
            return Ok(Self { task: Task::Merge(merge) });
        }
        Collect::new(flags, merge, corpus, datasets, shard, files)
            .map(|task| Self { task: Task::Collect(Box::new(task)) })
    }
}

impl Collect {
    fn new(
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
            "--shard needs --accumulate f64: sums in f32 depend on the order of chunks, so that shards do not merge exactly"
        );
        ensure!(
            flags.sum_on != "device" || accumulate == Accumulate::F32,
            "--sum-on device has sums in f32: --accumulate f64 adds them up by itself"
        );
        ensure!(
            shard.is_whole() || merge.in_files.is_empty(),
            "--shard starts from nothing: merge the --in-file's sums after the shards"
        );
        ensure!(flags.model.is_some() || flags.remote.named().is_some(), "--model is required");
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
                "--tokens {tokens} is less than one chunk: there are {} tokens in each (--ctx-size), unless --documents is given",
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
            log::warn(format_args!("--keep-tail changes nothing: with --documents no token is left out"));
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
        check_coverage(&flags, shard)?;
        let lens = lens(&flags, &merge.output)?;
        let state_path = state_path(merge.output.path(), shard);
        let keeps_state = keeps_state(&flags, &merge.output, shard, &state_path)?;
        let n_batch = positive("--batch-size", flags.batch_size)?;
        let n_ubatch = positive("--ubatch-size", flags.ubatch_size)?;
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
            shuffle: flags.shuffle.then_some(flags.seed),
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
            keeps_state,
            lens,
            merge,
            flags,
        })
    }
}

/// What the lens flags ask for. Files that cannot be read or written are told of now.
fn lens(flags: &Flags, output: &Output) -> anyhow::Result<Option<Lens>> {
    ensure!(
        flags.kl_divergence_base.is_none() || flags.logit_lens,
        "--kl-divergence-base is what --logit-lens holds the layers against: give that too"
    );
    ensure!(
        flags.kl_divergence_base.is_none() || !(flags.documents || flags.shuffle),
        "--kl-divergence-base is of the text's chunks in order: leave out --documents and --shuffle"
    );
    if !flags.logit_lens && !flags.logit_prism && !flags.layer_similarity {
        return Ok(None);
    }
    let path = output.is_file().then(|| LensFile::beside(output.path()));
    match &path {
        Some(path) => {
            check_way(path)?;
            refuse_foreign_lens(path)?;
        }
        None => log::warn(format_args!(
            "'{}' is no regular file: no lens file is written beside it, and the tables on standard output are all",
            output.path().display()
        )),
    }
    let base = flags.kl_divergence_base.as_deref().map(LogitsFile::open).transpose()?.map(Arc::new);
    Ok(Some(Lens { path, base }))
}

fn check_coverage(flags: &Flags, shard: Shard) -> anyhow::Result<()> {
    if flags.stop_when_covered.is_none() {
        return Ok(());
    }
    ensure!(
        shard.is_whole(),
        "--stop-when-covered needs the whole run: a shard does not know what the others have seen"
    );
    if flags.lanes.is_some_and(|lanes| lanes > 1) {
        log::warn(format_args!("--stop-when-covered evaluates batches one by one: --lanes is ignored"));
    }
    Ok(())
}

/// The part of the run that is to be taken.
fn shard(flags: &Flags) -> anyhow::Result<Shard> {
    match flags.shard.as_deref() {
        None => Ok(Shard::WHOLE),
        Some("auto") => Ok(Shard::auto(|name| std::env::var(name).ok())?),
        Some(shard) => Ok(shard.parse()?),
    }
}

/// Whether the run's state is kept. Where it cannot be, that is an error if it was asked for, and else a warning.
fn keeps_state(flags: &Flags, output: &Output, shard: Shard, path: &Path) -> anyhow::Result<bool> {
    let asked = [
        (!shard.is_whole(), "--shard"),
        (flags.resume, "--resume"),
        (flags.state_frequency.is_some(), "--state-frequency"),
    ];
    let asked = asked.into_iter().find_map(|(asked, flag)| asked.then_some(flag));
    if let (Some(flag), false) = (asked, output.is_file()) {
        bail!(
            "{flag} needs a regular file as --output, since the state lies beside it: '{0}' is none\n\
             hint: leave out {flag}, or name a file with --output",
            output.path().display()
        );
    }
    if !output.is_file() {
        if flags.state_interval > 0 {
            log::info(format_args!("'{}' is no regular file: the run keeps no state", output.path().display()));
        }
        return Ok(false);
    }
    match (asked, flags.state_interval) {
        (None, 0) => Ok(false),
        // A shard's is the output, which has been checked.
        (Some(_), _) if !shard.is_whole() => Ok(true),
        (Some(_), _) => check_way(path).map(|_| true),
        (None, _) => Ok(check_way(path)
            .inspect_err(|error| log::warn(format_args!("{error:#}; the run keeps no state")))
            .is_ok_and(|way| way != Way::Stream)),
    }
}

/// A merge without `-o` must not replace one of the matrices it merges.
fn refuse_default_output(flags: &Flags, corpus: &Corpus) -> anyhow::Result<()> {
    if flags.output.is_some() || !corpus.is_empty() {
        return Ok(());
    }
    let mut files = Files::default();
    flags.in_file.iter().for_each(|file| files.read("--in-file", file.into()));
    files.write("the default output", DEFAULT_OUTPUT.into());
    files.refuse_overlap()
}

/// The model's file, which is downloaded if it has to be.
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

impl Threads {
    /// What was given, else what `others` have.
    fn new(given: &Cpu, others: &Cpu) -> Self {
        let cpus = if given.cpus.is_empty() { &others.cpus } else { &given.cpus };
        Self {
            cpus: cpus.clone(),
            strict: given.strict.or(others.strict).unwrap_or(false),
            prio: given.prio.or(others.prio).unwrap_or(0),
            poll: given.poll.or(others.poll).unwrap_or(50),
        }
    }

    fn warn_of_few_cpus(&self, n_threads: i32) {
        let n_set = self.cpus.iter().filter(|&&set| set).count();
        if n_set > 0 && (n_set as i64) < i64::from(n_threads) {
            log::warn(format_args!(
                "Not enough set bits in CPU mask ({n_set}) to satisfy requested thread count: {n_threads}"
            ));
        }
    }
}

/// The text and the names of its files as they were given: they go into the matrix. As with llama.cpp's tool, a file
/// goes there by name also where a prompt takes the place of its text.
fn read_corpus(flags: &Flags) -> anyhow::Result<(Corpus, Vec<String>)> {
    let name = |path: &PathBuf| {
        std::fs::File::open(path).with_context(|| format!("failed to open file '{}'", path.display()))?;
        let name = path.to_str().with_context(|| format!("the name of '{}' is not UTF-8", path.display()))?;
        anyhow::Ok(name.to_owned())
    };
    let (mut corpus, datasets) = match &flags.text {
        None => return Ok((Corpus::default(), flags.dataset.iter().map(name).collect::<Result<_, _>>()?)),
        Some(Text::Prompt(prompt)) => {
            let datasets = flags.dataset.iter().map(name).collect::<Result<_, _>>()?;
            (Corpus::of_text(prompt.as_encoded_bytes().to_vec()), datasets)
        }
        Some(Text::Files(inputs)) => {
            let layout = if flags.documents { Layout::Apart } else { Layout::Joined };
            let corpus = Corpus::read(inputs, layout)?;
            for input in inputs.iter().filter(|input| input.raw) {
                let bytes = input.path.metadata().map_or(0, |metadata| metadata.len());
                log::raw(format_args!("Read {bytes} bytes from binary file {}\n", input.path.display()));
            }
            let datasets = corpus.files.clone();
            (corpus, datasets)
        }
    };
    for note in &corpus.notes {
        log::warn(format_args!("{note}"));
    }
    if flags.escape {
        for item in corpus.items.iter_mut().filter(|item| item.line.is_none()) {
            if let Body::Text(text) = &mut item.body {
                *text = unescape(text).into_owned();
            }
        }
    }
    Ok((corpus, datasets))
}

/// Characters for what stands for them after a backslash; other backslashes stay.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return text.into();
    }
    let hex = |digit: Option<&u8>| char::from(*digit?).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let (byte, taken) = match (first, after.first()) {
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(&c @ (b'\'' | b'"' | b'\\'))) => (c, 2),
            (b'\\', Some(b'x')) => match (hex(after.get(1)), hex(after.get(2))) {
                (Some(high), Some(low)) => ((high * 16 + low) as u8, 4),
                _ => (b'\\', 1),
            },
            _ => (*first, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
    }
    out.into()
}

/// `--in-file`'s files, if they can all be opened.
fn openable(files: &[String]) -> anyhow::Result<Vec<String>> {
    for file in files {
        // A pipe is left for the one who reads it: opening it waits for a writer, who ends with what opened it.
        let opens = std::fs::metadata(file)
            .and_then(|metadata| if metadata.is_file() { std::fs::File::open(file).map(drop) } else { Ok(()) });
        opens.with_context(|| format!("failed to open file '{file}'"))?;
    }
    Ok(files.to_vec())
}

fn logical_cpus() -> i32 {
    std::thread::available_parallelism().map_or(1, |n| i32::try_from(n.get()).unwrap_or(i32::MAX))
}

/// A thread a physical core: two on one core share its arithmetic units.
fn default_threads() -> i32 {
    i32::try_from(num_cpus::get_physical()).unwrap_or(i32::MAX).clamp(1, logical_cpus())
}

fn at_least_one(threads: i32) -> i32 {
    if threads < 1 { logical_cpus() } else { threads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_llama_cpps() {
        assert_eq!(&*unescape(br#"a\n\r\t\'\"\\b"#), b"a\n\r\t'\"\\b");
        assert_eq!(&*unescape(br"\x41\x4"), br"A\x4");
        assert_eq!(&*unescape(br"\q\"), br"\q\");
        assert_eq!(&*unescape(br"\\n"), br"\n");
        assert_eq!(&*unescape(br"\xg1"), br"\xg1");
    }

    #[test]
    fn threads_for_batches_take_what_they_lack_from_the_others() {
        let cpu = Cpu { prio: Some(2), strict: Some(true), ..Cpu::default() };
        let batch = Cpu { prio: Some(1), ..Cpu::default() };
        let threads = Threads::new(&batch, &cpu);
        assert_eq!(threads, Threads { cpus: Vec::new(), strict: true, prio: 1, poll: 50 });
    }
}
