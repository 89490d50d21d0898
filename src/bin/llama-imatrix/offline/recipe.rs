//! `recipe`: which type each weight should have at a size.

#[cfg(feature = "llama")]
mod output;
mod size;

use std::path::PathBuf;

use anyhow::bail;
#[cfg(feature = "llama")]
use anyhow::{Context as _, ensure};
use llama_imatrix::gguf::DType;
use llama_imatrix::quantize::Budget;

use super::tables::{By, Format};
use crate::config::dtype::parse as dtype;

/// Chooses a type per weight for llama-quantize, at the least expected error for a size; docs/recipes.md has the method
#[expect(clippy::doc_markdown, reason = "the comments are the help, which is plain text")]
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("budget").required(true))]
pub(crate) struct RecipeArgs {
    /// The model: f32, f16, bf16 or q8_0; of a split model the first file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Its importance matrix, GGUF or legacy .dat
    #[arg(value_name = "MATRIX")]
    matrix: PathBuf,
    /// Bits per weight at most, as llama-quantize prints them
    #[arg(long, value_name = "BITS", group = "budget", value_parser = bits)]
    bpw: Option<f64>,
    /// Size of the file at most: 12.5GiB, 900MB, or a number of bytes
    #[arg(long, value_name = "SIZE", group = "budget", value_parser = size::parse)]
    size: Option<u64>,
    /// Write the types to this file, for llama-quantize --tensor-type-file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the argument of ik_llama.cpp's --custom-q to this file
    #[arg(long, value_name = "FILE")]
    custom_q: Option<PathBuf>,
    /// Write the least cost at each size, as CSV, to this file; report --recipe-curve draws it
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,
    /// Types to choose from [default: iq1_s to q8_0, without those of blocks of 32]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dtype)]
    types: Vec<DType>,
    /// Exclude types with fewer bits than this one
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    min_type: Option<DType>,
    /// Exclude types with more bits than this one
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    max_type: Option<DType>,
    /// Give weights whose name matches a pattern of * and ? this type; may be given more than once
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = keep)]
    keep: Vec<(String, DType)>,
    /// Allow different types for ffn_gate and ffn_up, which llama.cpp fuses if they have the same
    #[arg(long)]
    no_fuse: bool,
    /// Rows per weight that are quantized to measure errors
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Measured sensitivities, from the command sensitivity; may be given more than once
    #[arg(long, value_name = "FILE")]
    sensitivity: Vec<PathBuf>,
    /// Quantize all rows
    #[arg(long, conflicts_with = "rows")]
    exact: bool,
    /// Seed for choosing the rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Ignore the means of the inputs: use their mean squares only
    #[arg(long)]
    no_means: bool,
    /// Threads [default: one per CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print only weights or only layers [default: both; in CSV weights]
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Tokens per chunk of a legacy .dat file, which does not store it
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(i32).range(1..))]
    legacy_chunk_size: i32,
}

impl RecipeArgs {
    fn budget(&self) -> anyhow::Result<Budget> {
        match (self.bpw, self.size) {
            (Some(bits), None) => Ok(Budget::BitsPerWeight(bits)),
            (None, Some(bytes)) => Ok(Budget::FileBytes(bytes)),
            _ => bail!("expected one of --bpw and --size"),
        }
    }
}

fn bits(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(bits) if bits.is_finite() && bits > 0.0 && bits <= 64.0 => Ok(bits),
        _ => Err("expected a number above 0, at most 64".to_owned()),
    }
}

fn keep(text: &str) -> Result<(String, DType), String> {
    let (pattern, name) = text.rsplit_once('=').ok_or("expected PATTERN=TYPE, such as 'output.weight=q6_K'")?;
    if pattern.is_empty() {
        return Err("the pattern is empty".to_owned());
    }
    Ok((pattern.to_owned(), dtype(name)?))
}

#[cfg(not(feature = "llama"))]
pub(crate) fn run(_: &RecipeArgs) -> anyhow::Result<()> {
    bail!("this program was built without llama.cpp, whose quantizers a recipe is measured with")
}

#[cfg(feature = "llama")]
pub(crate) fn run(args: &RecipeArgs) -> anyhow::Result<()> {
    let budget = args.budget()?;
    refuse_overlap(args)?;
    if let Some(n) = args.threads {
        rayon_threads(n)?;
    }
    output::write(args, &plan(args, budget)?)
}

/// Refuses to write over an input, or over a file that is not text.
#[cfg(feature = "llama")]
fn refuse_overlap(args: &RecipeArgs) -> anyhow::Result<()> {
    use crate::config::overlap::Files;
    use crate::config::replaceable::refuse_foreign_lines;

    let mut files = Files::default();
    files.read("recipe", args.matrix.clone());
    args.sensitivity.iter().for_each(|path| files.read("--sensitivity", path.clone()));
    files.read_model("recipe", &args.model);
    let written =
        [("--output", &args.output, "^"), ("--custom-q", &args.custom_q, "^"), ("--curve", &args.curve, "bytes,")];
    for (flag, path, begins) in written {
        if let Some(path) = path {
            refuse_foreign_lines(path, flag, begins)?;
            files.write(flag, path.clone());
        }
    }
    files.refuse_overlap()
}

#[cfg(feature = "llama")]
fn rayon_threads(n: u16) -> anyhow::Result<()> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(n.into()).build_global()?)
}

/// A recipe and its inputs.
#[cfg(feature = "llama")]
struct Plan {
    source: llama_imatrix::quantize::Source,
    measured: Vec<llama_imatrix::quantize::Measured>,
    recipe: llama_imatrix::quantize::Recipe,
}

#[cfg(feature = "llama")]
fn plan(args: &RecipeArgs, budget: Budget) -> anyhow::Result<Plan> {
    use llama_imatrix::imatrix::{ChunkSizes, Imatrix};
    use llama_imatrix::quantize::errors::Sampling;
    use llama_imatrix::quantize::moments::Statistics;
    use llama_imatrix::quantize::{Constraints, Pricing, Recipe, Source, file_size, price};

    use crate::ui::{log, progress};

    let source = Source::open(&args.model).context("cannot read the model")?;
    let shown = args.matrix.display();
    let loaded = Imatrix::load(&args.matrix).with_context(|| format!("failed to load imatrix '{shown}'"))?;
    let header = file_size::header_bytes(&source, &args.matrix, &loaded);
    let sizes = ChunkSizes { run: args.legacy_chunk_size, legacy: args.legacy_chunk_size };
    let imatrix = loaded.into_imatrix(sizes).with_context(|| format!("cannot use '{shown}'"))?;
    let statistics = Statistics::new(&imatrix, &source, !args.no_means).with_context(|| format!("'{shown}'"))?;

    let mut constraints = Constraints { keep: args.keep.clone(), fuse: !args.no_fuse, ..Constraints::default() };
    if !args.types.is_empty() {
        constraints.types.clone_from(&args.types);
    }
    constraints.limit(args.min_type, args.max_type);
    ensure!(!constraints.types.is_empty(), "--types, --min-type and --max-type leave no type");
    let candidates = constraints.candidates(&source, |weight| statistics.has(weight))?;
    warn_of_missing(&source, &statistics, &candidates)?;

    let sampling = Sampling { rows: (!args.exact).then_some(args.rows), seed: args.seed };
    let pricing = Pricing { sampling, measured: sensitivities(args, &source)? };
    let total = candidates.iter().filter(|types| !types.is_empty()).count();
    progress::start_items(total, "weights");
    let measured = price(&source, &statistics, &candidates, &pricing, progress::set_items);
    progress::finish();
    let measured = measured.with_context(|| format!("'{}'", args.model.display()))?;
    let priced: Vec<_> = measured.iter().map(llama_imatrix::quantize::Measured::priced).collect();
    let recipe = Recipe::choose(&source, &priced, header, budget, constraints.fuse)?;
    if !recipe.is_optimal {
        let over = 100.0 * (recipe.cost / recipe.bound - 1.0);
        log::info(format_args!(
            "there are too many mixes to search: this one costs at most {over:.2} % more than the best"
        ));
    }
    Ok(Plan { source, measured, recipe })
}

/// Reads the measured sensitivities.
#[cfg(feature = "llama")]
fn sensitivities(
    args: &RecipeArgs,
    source: &llama_imatrix::quantize::Source,
) -> anyhow::Result<llama_imatrix::quantize::Sensitivities> {
    use llama_imatrix::quantize::Sensitivities;
    use llama_imatrix::quantize::sensitivity_file::SensitivityFile;

    let mut all = Sensitivities::default();
    for path in &args.sensitivity {
        let file = SensitivityFile::load(path)?;
        if let Some(name) = file.names().find(|name| source.weight(name).is_none()) {
            bail!(
                "'{}' is of another model: it has '{name}', and the model has no tensor of this name",
                path.display()
            );
        }
        all.add(file);
    }
    Ok(all)
}

/// The first names of a list, and the number of the others.
#[cfg(feature = "llama")]
fn some_of(names: &[&str]) -> String {
    let shown = names.iter().take(3).map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(3);
    if more == 0 { shown } else { format!("{shown} and {more} others") }
}

/// Fails if the matrix has no entry for the model. Warns of weights without an entry.
#[cfg(feature = "llama")]
fn warn_of_missing(
    source: &llama_imatrix::quantize::Source,
    statistics: &llama_imatrix::quantize::moments::Statistics<'_>,
    candidates: &[Vec<DType>],
) -> anyhow::Result<()> {
    let chosen = || source.weights().iter().zip(candidates).filter(|(_, types)| !types.is_empty()).map(|(w, _)| w);
    let missing: Vec<&str> = chosen().filter(|w| !statistics.has(w)).map(|w| w.name.as_str()).collect();
    if missing.len() == chosen().count() {
        return Err(llama_imatrix::quantize::Error::NoEntries.into());
    }
    // Embeddings that are only looked up have no entry in any matrix.
    let is_tied = source.weight("output.weight").is_none();
    let telling: Vec<&str> = missing.into_iter().filter(|name| is_tied || !name.contains("token_embd")).collect();
    if !telling.is_empty() {
        let output = telling.iter().any(|name| *name == "output.weight" || *name == "token_embd.weight");
        crate::ui::log::warn(format_args!(
            "the matrix has no entry for {}: errors are estimated without it, and types that require an entry are left out{}",
            some_of(&telling),
            if output { "\nhint: collect the matrix with --process-output" } else { "" }
        ));
    }
    Ok(())
}
