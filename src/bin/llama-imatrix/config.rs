//! Flags, checked and made ready: whatever can be told to be wrong before the run is told here.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::calibration;
use llama_imatrix::imatrix::{ChunkSizes, Format};

use crate::flags::{Flags, OutputFormat};
use crate::output::Output;

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
    pub(crate) text: Vec<u8>,
    /// The text's name in the file, if it has one.
    pub(crate) dataset: Option<String>,
    pub(crate) flags: Flags,
    pub(crate) gpu_layers: GpuLayers,
    pub(crate) flash_attention: Tristate,
    pub(crate) n_batch: usize,
    pub(crate) n_ubatch: usize,
    pub(crate) n_threads: i32,
    pub(crate) n_threads_batch: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GpuLayers {
    Auto,
    All,
    Count(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tristate {
    Auto,
    On,
    Off,
}

impl Config {
    pub(crate) fn new(flags: Flags) -> anyhow::Result<Self> {
        let in_files = split_in_files(&flags.in_file)?;
        if flags.show_statistics {
            let Some(file) = in_files.into_iter().next() else {
                bail!("--show-statistics needs a matrix, give it with --in-file");
            };
            let size = flags.legacy_chunk_size.unwrap_or(flags.ctx_size).max(1);
            return Ok(Self {
                task: Task::ShowStatistics(ShowStatistics {
                    file,
                    chunk_sizes: ChunkSizes { run: size, legacy: size },
                }),
            });
        }
        ensure!(flags.ctx_size > 0, "imatrix tool requires '--ctx-size' > 0, found {}", flags.ctx_size);
        let draft_model = flags.model_draft.clone().filter(|path| !path.as_os_str().is_empty());
        let nextn = flags.nextn || draft_model.is_some();
        // Also where nothing is collected, as llama.cpp's tool.
        ensure!(
            !nextn || flags.batch_size / flags.ctx_size <= 1,
            "'--nextn' and '--model-draft' need a single sequence per batch, set '--batch-size' to at most \
             '--ctx-size' ({}), found {}",
            flags.ctx_size,
            flags.batch_size
        );

        let (text, dataset) = read_prompt(&flags)?;
        let format = flags.output_format.map(|format| match format {
            OutputFormat::Dat => Format::Dat,
            OutputFormat::Gguf => Format::Gguf,
        });
        let output = Output::new(flags.output.clone(), format)?;
        // In a merge -c can only mean the chunks of files that do not say; in a run it is the run's, and a legacy file's
        // are most likely of llama.cpp's default size.
        let legacy = if text.is_empty() { flags.ctx_size } else { DEFAULT_CHUNK_SIZE };
        let legacy = flags.legacy_chunk_size.unwrap_or(legacy);
        ensure!(legacy > 0, "--legacy-chunk-size must be above 0, found {legacy}");
        let chunk_sizes = ChunkSizes { run: flags.ctx_size, legacy };
        let merge = Merge { in_files, chunk_sizes, output };
        if text.is_empty() {
            ensure!(
                !merge.in_files.is_empty(),
                "no prompt provided (-f or -p) and no precomputed matrices (--in-file) to combine"
            );
            return Ok(Self { task: Task::Merge(merge) });
        }
        Collect::new(flags, merge, text, dataset).map(|task| Self { task: Task::Collect(Box::new(task)) })
    }
}

impl Collect {
    fn new(flags: Flags, merge: Merge, text: Vec<u8>, dataset: Option<String>) -> anyhow::Result<Self> {
        let model = flags.model.clone().context("--model is required")?;
        let draft_model = flags.model_draft.clone().filter(|path| !path.as_os_str().is_empty());
        let positive = |name: &str, value: i32| {
            usize::try_from(value)
                .ok()
                .filter(|&n| n > 0)
                .with_context(|| format!("{name} must be above 0, found {value}"))
        };
        ensure!(flags.chunk >= 0, "--chunk must be 0 or above, found {}", flags.chunk);
        let n_threads = flags.threads.map_or_else(default_threads, at_least_one);
        Ok(Self {
            model,
            nextn: flags.nextn || draft_model.is_some(),
            draft_model,
            text,
            dataset,
            gpu_layers: parse_gpu_layers(&flags.n_gpu_layers)?,
            flash_attention: parse_tristate("--flash-attn", &flags.flash_attn)?,
            n_batch: positive("--batch-size", flags.batch_size)?,
            n_ubatch: positive("--ubatch-size", flags.ubatch_size)?,
            n_threads,
            n_threads_batch: flags.threads_batch.map_or(n_threads, at_least_one),
            merge,
            flags,
        })
    }
}

/// The text and, if a file was named, that name as it was given: it goes into the matrix, as it does with llama.cpp's
/// tool also where a prompt takes the place of the file's text.
fn read_prompt(flags: &Flags) -> anyhow::Result<(Vec<u8>, Option<String>)> {
    let mut text = flags.prompt.as_ref().map(|prompt| prompt.as_encoded_bytes().to_vec());
    let mut dataset = None;
    if let Some(path) = &flags.file {
        dataset =
            Some(path.to_str().with_context(|| format!("the name of '{}' is not UTF-8", path.display()))?.to_owned());
        let of_file = calibration::read_text(path)?;
        if !flags.prompt_is_last {
            text = Some(of_file);
        }
    }
    Ok((text.unwrap_or_default(), dataset))
}

/// `--in-file` takes files separated by commas; quotes keep a comma, two quotes in quotes are one.
fn split_in_files(values: &[String]) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for value in values {
        files.extend(split_csv(value));
    }
    for file in &files {
        std::fs::File::open(Path::new(file)).with_context(|| format!("failed to open file '{file}'"))?;
    }
    Ok(files)
}

fn split_csv(row: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

fn parse_gpu_layers(value: &str) -> anyhow::Result<GpuLayers> {
    match value {
        "auto" => Ok(GpuLayers::Auto),
        "all" => Ok(GpuLayers::All),
        number => match number.parse::<i32>() {
            Ok(-1) => Ok(GpuLayers::Auto),
            Ok(n) => Ok(u32::try_from(n).map_or(GpuLayers::All, GpuLayers::Count)),
            Err(_) => bail!("--n-gpu-layers takes a number, 'auto' or 'all', found '{number}'"),
        },
    }
}

fn parse_tristate(flag: &str, value: &str) -> anyhow::Result<Tristate> {
    match value {
        "on" | "enabled" | "true" | "1" => Ok(Tristate::On),
        "off" | "disabled" | "false" | "0" => Ok(Tristate::Off),
        "auto" | "-1" => Ok(Tristate::Auto),
        other => bail!("{flag} takes 'on', 'off' or 'auto', found '{other}'"),
    }
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
    fn in_files_split_at_commas_outside_quotes() {
        assert_eq!(split_csv("a,b"), ["a", "b"]);
        assert_eq!(split_csv(r#""a,b",c"#), ["a,b", "c"]);
        assert_eq!(split_csv(r#""say ""hi""",d"e"#), [r#"say "hi""#, r#"d"e"#]);
        assert_eq!(split_csv(""), [""]);
    }

    #[test]
    fn layers_are_numbers_or_words() {
        assert_eq!(parse_gpu_layers("99").unwrap(), GpuLayers::Count(99));
        assert_eq!(parse_gpu_layers("-1").unwrap(), GpuLayers::Auto);
        assert_eq!(parse_gpu_layers("all").unwrap(), GpuLayers::All);
        assert!(parse_gpu_layers("many").unwrap_err().to_string().contains("'many'"));
    }

    #[test]
    fn attention_is_on_off_or_auto() {
        assert_eq!(parse_tristate("-fa", "1").unwrap(), Tristate::On);
        assert_eq!(parse_tristate("-fa", "disabled").unwrap(), Tristate::Off);
        assert_eq!(parse_tristate("-fa", "-1").unwrap(), Tristate::Auto);
        assert!(parse_tristate("-fa", "2").is_err());
    }
}
