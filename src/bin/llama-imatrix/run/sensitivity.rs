//! `sensitivity`: what the error of each weight, layer or kind of weights costs the model, measured.

use std::path::PathBuf;

/// Measures how much the error of each weight changes the model's predictions, for recipe --sensitivity
#[expect(clippy::doc_markdown, reason = "the comments are the help, which is plain text")]
#[derive(Debug, clap::Args)]
pub(crate) struct Sensitivity {
    /// The model: f32, f16, bf16 or q8_0; of a split model the first file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Its importance matrix, GGUF or legacy .dat
    #[arg(value_name = "MATRIX")]
    matrix: PathBuf,
    /// The text, preferably the calibration text; may be given more than once
    #[arg(short, long = "file", required = true, value_name = "FNAME")]
    files: Vec<PathBuf>,
    /// The output file. A file of the same measurement is continued
    #[arg(short, long, value_name = "FILE", default_value = "sensitivity.json")]
    output: PathBuf,
    /// The type that each weight is quantized to
    #[arg(long = "type", value_name = "TYPE", default_value = "q3_K", value_parser = crate::config::dtype::parse)]
    dtype: llama_imatrix::gguf::DType,
    /// Tokens of the text to evaluate per weight
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Tokens per chunk; the second half of each counts
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx_size: u32,
    /// Quantize together: each weight alone, the weights of a layer, or those of a kind in all layers
    #[arg(long, value_enum, value_name = "GROUP", default_value_t)]
    by: Group,
    /// Measure part I of N of the weights or groups: 1/4, 2/4, ..; give all files to recipe
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Layers on devices: a number, or all
    #[arg(long = "n-gpu-layers", visible_alias = "gpu-layers", value_name = "N", value_parser = super::kld::gpu_layers)]
    gpu_layers: Option<u32>,
}

/// What is quantized together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    /// Each weight alone.
    #[default]
    Weight,
    /// The weights of each layer.
    Layer,
    /// The weights of each kind, such as `attn_q`.
    Kind,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
    parts.filter(|(i, n)| (1..=*n).contains(i)).ok_or_else(|| "expected I/N, with I from 1 to N".to_owned())
}

#[cfg(not(feature = "llama"))]
pub(crate) fn run(_: &Sensitivity) -> anyhow::Result<()> {
    anyhow::bail!("this program was built without llama.cpp: it cannot evaluate models")
}

#[cfg(feature = "llama")]
pub(crate) use measuring::run;

#[cfg(feature = "llama")]
mod measuring {
    use anyhow::{Context as _, bail, ensure};
    use llama_imatrix::atomic_file;
    use llama_imatrix::calibration::Chunks;
    use llama_imatrix::gguf::DType;
    use llama_imatrix::imatrix::Imatrix;
    use llama_imatrix::llama::EditableModel;
    use llama_imatrix::quantize::moments::Statistics;
    use llama_imatrix::quantize::rules::requires_entry;
    use llama_imatrix::quantize::sensitivity::{Effect, Reference, measure};
    use llama_imatrix::quantize::sensitivity_file::{
        By, GroupMeasurement, GroupWeight, Measurement, SensitivityFile, Setup,
    };
    use llama_imatrix::quantize::{Constraints, Source, Weight};
    use llama_imatrix::state::{Digest, ModelFingerprint};

    use super::{Group, Sensitivity};
    use crate::config::overlap::Files;
    use crate::run::models;
    use crate::ui::{log, progress};

    pub(crate) fn run(args: &Sensitivity) -> anyhow::Result<()> {
        refuse_overlap(args)?;
        let source = Source::open(&args.model).context("cannot read the model")?;
        let shown = args.matrix.display();
        let imatrix = Imatrix::read(&args.matrix).with_context(|| format!("failed to load imatrix '{shown}'"))?;
        let statistics = Statistics::new(&imatrix, &source, true).with_context(|| format!("'{shown}'"))?;
        let groups = chosen(args, &source, &statistics)?;

        models::start();
        let mut model = EditableModel::load(&args.model, &models::options(args.gpu_layers))?;
        let limit = (args.tokens / args.ctx_size).max(1);
        let chunks = models::chunks(&args.files, model.model(), args.ctx_size, Some(limit))?;
        let mut file = opened(args, setup(args, &chunks)?)?;
        let threads = usize::try_from(args.threads.map_or_else(crate::config::default_threads, i32::from))?;
        let left: Vec<Together<'_>> = groups.into_iter().filter(|group| !file.has(&group.name)).collect();
        let (n_weights, what) = (left.iter().map(|group| group.weights.len()).sum::<usize>(), plural(args.by));
        let groups = if args.by == Group::Weight { String::new() } else { format!("{} {what} of ", left.len()) };
        log::info(format_args!(
            "measuring {groups}{n_weights} weights over {} chunks of {} tokens; {} are in the file already",
            chunks.n_whole(),
            chunks.size(),
            file.len()
        ));
        let reference = Reference::new(model.model(), &chunks, threads)?;
        let is_tied = source.weight("output.weight").is_none();
        let norm = source.weight("output_norm.weight").and_then(|weight| source.tensor(weight)?.to_f32());
        let inputs = |weight: &Weight| statistics.inputs(weight, norm.as_deref(), is_tied);
        progress::start_items(left.len(), what);
        for (done, group) in left.iter().enumerate() {
            match measure(&mut model, &reference, &chunks, &source, &group.weights, inputs)? {
                None => log::warn(format_args!("'{}' is left out: the model does not compute with it", group.name)),
                Some(effect) => {
                    add(&mut file, args.by, group, &effect);
                    save(args, &file)?;
                }
            }
            progress::set_items(done + 1);
        }
        progress::finish();
        save(args, &file)?;
        log::info(format_args!("'{}': {} {what}", args.output.display(), file.len()));
        Ok(())
    }

    fn by(group: Group) -> By {
        match group {
            Group::Weight => By::Weight,
            Group::Layer => By::Layer,
            Group::Kind => By::Kind,
        }
    }

    const fn plural(group: Group) -> &'static str {
        match group {
            Group::Weight => "weights",
            Group::Layer => "layers",
            Group::Kind => "kinds",
        }
    }

    /// Weights that are quantized together, each with its type.
    struct Together<'s> {
        name: String,
        weights: Vec<(&'s Weight, DType)>,
    }

    fn add(file: &mut SensitivityFile, by: Group, group: &Together<'_>, effect: &Effect) {
        let divergence = effect.divergence as f32;
        let measured = |&(weight, dtype): &(&Weight, DType)| {
            let error = *effect.errors.get(&weight.name)? as f32;
            Some((weight.name.clone(), GroupWeight { dtype: dtype.name().to_owned(), error }))
        };
        let weights = group.weights.iter().filter_map(measured);
        if by == Group::Weight {
            let alone = weights.map(|(name, w)| (name, Measurement { dtype: w.dtype, error: w.error, divergence }));
            file.weights.extend(alone);
        } else {
            file.groups.insert(group.name.clone(), GroupMeasurement { divergence, weights: weights.collect() });
        }
    }

    fn refuse_overlap(args: &Sensitivity) -> anyhow::Result<()> {
        let mut files = Files::default();
        files.read("sensitivity", args.matrix.clone());
        files.read_model("sensitivity", &args.model);
        args.files.iter().for_each(|path| files.read("--file", path.clone()));
        files.write("--output", args.output.clone());
        files.refuse_overlap()
    }

    /// Returns the groups of this part, in the order of the file.
    fn chosen<'s>(
        args: &Sensitivity,
        source: &'s Source,
        statistics: &Statistics<'_>,
    ) -> anyhow::Result<Vec<Together<'s>>> {
        let constraints = Constraints { types: vec![args.dtype], ..Constraints::default() };
        let candidates = constraints.candidates(source, |_| true)?;
        let (mut groups, mut lack_entry): (Vec<Together<'s>>, Vec<&str>) = (Vec::new(), Vec::new());
        for (weight, types) in source.weights().iter().zip(&candidates) {
            let Some(&dtype) = types.first() else { continue };
            if !statistics.has(weight) && requires_entry(&weight.name, dtype) {
                lack_entry.push(&weight.name);
                continue;
            }
            let name = by(args.by).group(weight);
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.weights.push((weight, dtype)),
                None => groups.push(Together { name, weights: vec![(weight, dtype)] }),
            }
        }
        if let Some(name) = lack_entry.first() {
            log::warn(format_args!(
                "{} weights are left out: {} requires an entry in the matrix, and they have none, such as '{name}'\n\
                 hint: recipe estimates their sensitivities",
                lack_entry.len(),
                args.dtype
            ));
        }
        let (part, parts) = args.shard.unwrap_or((1, 1));
        // Every N-th: each part has weights of all layers.
        let chosen: Vec<_> =
            groups.into_iter().enumerate().filter(|(i, _)| i % parts == part - 1).map(|(_, group)| group).collect();
        ensure!(!chosen.is_empty(), "--shard {part}/{parts} has no {}", plural(args.by));
        Ok(chosen)
    }

    fn setup(args: &Sensitivity, chunks: &Chunks) -> anyhow::Result<Setup> {
        let matrix = std::fs::read(&args.matrix).with_context(|| format!("cannot read '{}'", args.matrix.display()))?;
        let tokens: Vec<i32> = (0..chunks.n_whole()).flat_map(|i| chunks.get(i).iter().copied()).collect();
        Ok(Setup {
            model: ModelFingerprint::of_file(&args.model)?.sample.to_string(),
            matrix: Digest::of(&matrix).to_string(),
            text: Digest::of_tokens(&tokens).to_string(),
            ctx_size: args.ctx_size,
            chunks: chunks.n_whole(),
            dtype: args.dtype.name().to_owned(),
            by: by(args.by),
        })
    }

    /// Reads the file of an earlier run, if there is one of the same measurement.
    fn opened(args: &Sensitivity, setup: Setup) -> anyhow::Result<SensitivityFile> {
        if !args.output.exists() {
            return Ok(SensitivityFile::new(setup));
        }
        let file = SensitivityFile::load(&args.output)?;
        if file.setup != setup {
            bail!(
                "'{0}' is of another measurement: its model, matrix, text, --ctx-size, --tokens, --type or --by differ\n\
                 hint: delete '{0}', or name another file with --output",
                args.output.display()
            );
        }
        Ok(file)
    }

    fn save(args: &Sensitivity, file: &SensitivityFile) -> anyhow::Result<()> {
        let saved = atomic_file::save(&args.output, |out| out.write_all(file.to_json().as_bytes()));
        saved.with_context(|| format!("cannot save '{}'", args.output.display()))
    }
}
