//! `merge`: merges the shards of a run, or several matrices, each with its weight.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::gguf;
use llama_imatrix::imatrix::{self, ChunkSizes, Imatrix, merge_weighted};
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::state::{self, MergeError, Merger, State};

use crate::config::in_files;
use crate::config::output::{Output, warn_of_dat};
use crate::config::overlap::Files;
use crate::config::replaceable::refuse_foreign_json;
use crate::ui::log;
use crate::ui::results::{log_saved, print_estimate, warn_of_discarded, warn_of_gaps};

/// Merges the states of all shards of a run, to the bytes of an unsharded run, or adds up matrices
#[derive(Debug, clap::Args)]
pub(crate) struct Merge {
    /// State files of a run's shards, or importance matrices, GGUF or legacy .dat
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The output file
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,
    /// Format of the output [default: by the name]
    #[arg(long, value_enum, value_name = "FORMAT")]
    output_format: Option<Format>,
    /// Weight per matrix, in order: --weight 0.5 --weight 2, or --weight 0.5,2
    /// [default: 1]
    #[arg(long = "weight", value_name = "W", value_delimiter = ',', value_parser = weight)]
    weights: Vec<f64>,
    /// Fill experts that saw few tokens: layer = blend them with the mean of their weight's experts. Changes the bytes
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    fill_experts: FillExperts,
    /// Fill experts that saw fewer than N tokens [default: 1, only those that saw none]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    fill_below: Option<i64>,
    /// Tokens per chunk of legacy .dat files, which do not store it
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(i32).range(1..))]
    legacy_chunk_size: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Gguf,
    Dat,
}

/// How experts that saw few tokens are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FillExperts {
    /// Not at all.
    #[default]
    None,
    /// From the other experts of the same weight.
    Layer,
    /// From rows that are shown to them: refused, since it needs the model.
    #[value(hide = true)]
    Shown,
}

impl From<Format> for imatrix::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Gguf => Self::Gguf,
            Format::Dat => Self::Dat,
        }
    }
}

fn weight(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(weight) if weight.is_finite() && weight > 0.0 => Ok(weight),
        _ => Err("expected a number above 0".to_owned()),
    }
}

pub(crate) fn run(args: &Merge) -> anyhow::Result<()> {
    refuse_overlap(args)?;
    let output = Output::new(args.output.clone(), args.output_format.map(Into::into))?;
    let states = args.files.iter().filter(|path| is_state(path)).count();
    ensure!(
        args.fill_below.is_none() || args.fill_experts != FillExperts::None,
        "--fill-below requires --fill-experts layer"
    );
    ensure!(
        args.fill_experts != FillExperts::Shown,
        "merge cannot fill experts as with --fill-experts shown, which needs the model\n\
         hint: --fill-experts layer, or a run with --fill-experts shown, which continues from matrices with --in-file"
    );
    let mut beside = Beside::default();
    let mut merged = match args.files.iter().find(|path| !is_state(path)) {
        None => {
            let (merged, files) = merge_states(args, &output)?;
            beside = files;
            merged
        }
        Some(matrix) if states > 0 => {
            bail!("'{}' is not a state: states can only be merged with states", matrix.display())
        }
        Some(_) => merge_matrices(args)?,
    };
    if args.fill_experts != FillExperts::None {
        fill(&mut merged, args.fill_below.unwrap_or(1));
    }
    warn_of_gaps(&merged);
    warn_of_dat(&output, &merged);
    output.save(&merged, None)?;
    log_saved(output.path(), &merged, &[]);
    beside.save(output.path())
}

fn fill(imatrix: &mut Imatrix, below: i64) {
    let filled = imatrix.fill_experts(below);
    log::info(format_args!(
        "{filled} experts with fewer than {below} tokens filled in {} weights; the file lists them",
        imatrix.filled.len()
    ));
}

/// Refuses an output that is one of the inputs.
fn refuse_overlap(args: &Merge) -> anyhow::Result<()> {
    let mut files = Files::default();
    args.files.iter().for_each(|file| files.read("merge", file.clone()));
    files.write("--output", args.output.clone());
    if args.files.iter().all(|path| is_state(path)) {
        files.write("the lens file of --output", LensFile::beside(&args.output));
        files.write("the convergence file of --output", ConvergenceFile::beside(&args.output));
    }
    files.refuse_overlap()
}

/// Returns true if the file is a state, or is named as one, so that a damaged state is reported as such.
fn is_state(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension == "state");
    let says = |file: gguf::File<'_>| {
        file.get("general.type").and_then(gguf::Value::as_str).is_some_and(|kind| kind == state::KIND)
    };
    // A pipe can be read once, and a matrix is what comes through it.
    named || (path.is_file() && gguf::File::open(path).is_ok_and(says))
}

fn merge_states(args: &Merge, output: &Output) -> anyhow::Result<(Imatrix, Beside)> {
    ensure!(args.weights.is_empty(), "--weight cannot be combined with state files: all shards of a run have weight 1");
    let (mut merger, mut without) = (Merger::default(), Vec::new());
    for path in &args.files {
        let state = State::load(path).map_err(|source| MergeError::Read { path: path.clone(), source });
        let state = state.context("cannot merge")?;
        if !state.has_halves() {
            without.push(path);
        }
        merger.add(path, state).context("cannot merge")?;
    }
    let whole = merger.finish().context("cannot merge")?;
    if let Some(first) = without.first().filter(|_| without.len() < args.files.len()) {
        log::warn(format_args!(
            "'{}' does not have the halves of its text, so the run has no convergence file\n\
             hint: collect every shard with --convergence",
            first.display()
        ));
    }
    warn_of_discarded(&whole.progress.discarded);
    let running = whole.likelihoods.as_ref().map(|likelihoods| &likelihoods.running);
    if let Some(running) = running.filter(|running| running.to_parts().2 > 0) {
        print_estimate(&running.estimate());
    }
    let beside = Beside::new(&whole, output)?;
    Ok((whole.to_imatrix(), beside))
}

/// The files next to the matrix of a merged run.
#[derive(Default)]
struct Beside {
    lens: Option<LensFile>,
    convergence: Option<ConvergenceFile>,
}

impl Beside {
    /// Checks that the files may be written.
    fn new(whole: &State<'_>, output: &Output) -> anyhow::Result<Self> {
        let n_chunks = whole.progress.done.len() - whole.progress.discarded.len();
        let lens = whole.measurements.as_ref().map(|measured| {
            let chunk_size = u32::try_from(whole.output.chunk_size).unwrap_or_default();
            measured.file(whole.output.datasets.join(", "), chunk_size, n_chunks)
        });
        if let Some(measured) = lens.as_ref().map(|lens| lens.positions.chunks).filter(|&chunks| chunks < n_chunks) {
            log::warn(format_args!(
                "layers were measured in {measured} of {n_chunks} chunks: not all shards have measurements with the same settings"
            ));
        }
        let halves = whole.convergence();
        let convergence = halves.and_then(|halves| ConvergenceFile::new(halves, whole.progress.chunk_count, &[]));
        if let Some(point) = convergence.as_ref().and_then(ConvergenceFile::last) {
            log::info(format_args!("convergence: {}", point.describe()));
        }
        if !output.is_file() {
            return Ok(Self::default());
        }
        if lens.is_some() {
            refuse_foreign_json(&LensFile::beside(output.path()), "lens")?;
        }
        if convergence.is_some() {
            refuse_foreign_json(&ConvergenceFile::beside(output.path()), "convergence")?;
        }
        Ok(Self { lens, convergence })
    }

    fn save(&self, output: &Path) -> anyhow::Result<()> {
        if let Some(lens) = &self.lens {
            let path = LensFile::beside(output);
            lens.save(&path).with_context(|| format!("cannot save '{}'", path.display()))?;
            log::info(format_args!("saved the measurements of layers to '{}'", path.display()));
        }
        if let Some(convergence) = &self.convergence {
            let path = ConvergenceFile::beside(output);
            convergence.save(&path).with_context(|| format!("cannot save '{}'", path.display()))?;
        }
        Ok(())
    }
}

fn merge_matrices(args: &Merge) -> anyhow::Result<Imatrix> {
    let (n_files, weights) = (args.files.len(), args.weights.len());
    ensure!(
        weights == 0 || weights == n_files,
        "--weight: found {weights} weights for {n_files} files, expected one per file, in order"
    );
    let sizes = ChunkSizes { run: args.legacy_chunk_size, legacy: args.legacy_chunk_size };
    let mut loaded = Vec::with_capacity(n_files);
    for (i, path) in args.files.iter().enumerate() {
        let shown = path.display();
        let file = Imatrix::load(path).with_context(|| format!("failed to load imatrix '{shown}'"))?;
        // Alone, so that what is wrong with a file is said of that file.
        let mut alone = Imatrix::default();
        alone.merge(&file, sizes).with_context(|| format!("cannot merge '{shown}'"))?;
        if file.is_legacy {
            let size = sizes.legacy;
            log::info(format_args!(
                "'{shown}' does not store its chunk size: {size} tokens are assumed; --legacy-chunk-size changes that"
            ));
        }
        if let Some(problem) = in_files::invalid(&shown.to_string(), &file) {
            log::warn(format_args!("{problem}"));
        }
        check_shapes(&args.files, &loaded, path, &file)?;
        loaded.push((file, args.weights.get(i).copied().unwrap_or(1.0)));
    }
    let names: Vec<_> = args.files.iter().map(|path| path.display().to_string()).collect();
    in_files::warn_of_names(names.iter().map(String::as_str).zip(loaded.iter().map(|(loaded, _)| loaded)));
    let (mut merged, warnings) = merge_weighted(&loaded, sizes).context("cannot merge")?;
    for warning in warnings {
        log::warn(format_args!("{warning}"));
    }
    merged.settle_chunk_size(sizes.run);
    Ok(merged)
}

/// Finds the file of another model, with the name of one that it does not go with.
fn check_shapes(
    paths: &[PathBuf],
    earlier: &[(imatrix::Loaded, f64)],
    path: &Path,
    file: &imatrix::Loaded,
) -> anyhow::Result<()> {
    for (name, entry) in &file.entries {
        let with = earlier.iter().zip(paths).find_map(|((loaded, _), path)| Some((loaded.entries.get(name)?, path)));
        let Some((first, first_path)) = with else { continue };
        ensure!(
            first.sum2.len() == entry.sum2.len(),
            "'{}' is of another model than '{}': '{name}' has {} values, expected {}",
            path.display(),
            first_path.display(),
            entry.sum2.len(),
            first.sum2.len()
        );
    }
    Ok(())
}
