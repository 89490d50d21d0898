//! Values as given, flag by flag: well formed, but not yet checked against each other.

use std::ffi::OsString;
use std::path::PathBuf;

use llama_imatrix::calibration::{Date, Input};
use llama_imatrix::options::{
    CacheType, GpuLayers, LazyMode, LoadMode, Numa, OverrideValue, RopeScaling, SplitMode, SumOn,
};
use llama_imatrix::state::Accumulate;

use super::choices::{CpuProducts, FillExperts, Nan, OutputFormat};
use crate::ui::log::{LogOptions, level};

/// All flags that act. Those that are read and ignored leave nothing here.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "one field per flag, as users know them")]
pub(crate) struct Flags {
    // The matrix.
    pub(crate) text: Option<Text>,
    /// The file named last, whose name goes into the matrix where a prompt takes the place of its text.
    pub(crate) dataset: Option<PathBuf>,
    /// Each document is evaluated for itself.
    pub(crate) documents: bool,
    pub(crate) chat_template: Option<String>,
    pub(crate) chat_template_file: Option<PathBuf>,
    pub(crate) chat_date: Date,
    pub(crate) shuffle: bool,
    pub(crate) seed: u64,
    /// Tokens taken at most.
    pub(crate) tokens: Option<u64>,
    pub(crate) dry_run: bool,
    /// Speed for the time estimate of `--dry-run`.
    pub(crate) tokens_per_second: Option<f32>,
    pub(crate) escape: bool,
    /// `None`: a name that the kind of run has.
    pub(crate) output: Option<PathBuf>,
    pub(crate) output_format: Option<OutputFormat>,
    pub(crate) fill_experts: FillExperts,
    pub(crate) fill_below: Option<i64>,
    pub(crate) output_frequency: i32,
    pub(crate) save_frequency: i32,
    pub(crate) in_file: Vec<String>,
    pub(crate) legacy_chunk_size: Option<i32>,
    pub(crate) show_statistics: bool,
    pub(crate) chunk: i32,
    pub(crate) chunks: i32,
    pub(crate) no_ppl: bool,
    pub(crate) process_output: bool,
    pub(crate) parse_special: bool,
    pub(crate) nextn: bool,
    pub(crate) draft_model: Option<PathBuf>,
    pub(crate) keep_tail: bool,
    /// `None`: 16 as llama.cpp has it, 1 for documents.
    pub(crate) min_rows: Option<u32>,
    /// `None`: as many as are worth it.
    pub(crate) lanes: Option<usize>,

    // What it says about the layers.
    pub(crate) logit_lens: bool,
    pub(crate) logit_prism: bool,
    pub(crate) layer_similarity: bool,
    pub(crate) lens_tokens: usize,
    pub(crate) lens_seed: u64,
    pub(crate) kl_divergence_base: Option<PathBuf>,

    // What becomes of a run that is cut short, shared out, or goes wrong.
    pub(crate) resume: bool,
    pub(crate) state_frequency: Option<u32>,
    pub(crate) state_interval: u32,
    pub(crate) accumulate: Option<Accumulate>,
    pub(crate) sum_on: SumOn,
    /// `auto`, or as it was given.
    pub(crate) shard: Option<String>,
    pub(crate) nan: Nan,
    pub(crate) max_bad_chunks: Option<usize>,
    pub(crate) stop_when_covered: Option<u64>,
    pub(crate) convergence: bool,
    pub(crate) stop_when_converged: Option<f64>,

    // The model and its devices.
    pub(crate) model: Option<PathBuf>,
    pub(crate) remote: Remote,
    pub(crate) gpu_layers: GpuLayers,
    pub(crate) split_mode: SplitMode,
    pub(crate) tensor_split: Vec<f32>,
    pub(crate) main_gpu: i32,
    pub(crate) devices: Option<Vec<String>>,
    pub(crate) rpc: Vec<String>,
    /// Seconds without an answer from a server that end a run; 0 for no end.
    pub(crate) rpc_timeout: u32,
    /// Patterns of tensor names and the memory they go to; `CPU` is there in every build.
    pub(crate) override_tensor: Vec<(String, String)>,
    pub(crate) moe_cache_mib: i32,
    pub(crate) fit: Option<bool>,
    pub(crate) load_mode: LoadMode,
    pub(crate) lazy_mode: LazyMode,
    pub(crate) check_tensors: bool,
    pub(crate) no_repack: bool,
    pub(crate) no_host: bool,
    pub(crate) override_kv: Vec<(String, OverrideValue)>,
    pub(crate) lora: Vec<(PathBuf, f32)>,
    pub(crate) control_vectors: Vec<(PathBuf, f32)>,
    pub(crate) control_vector_layers: (i32, i32),

    // Context and evaluation.
    pub(crate) ctx_size: i32,
    /// `None`: llama.cpp's default, or what `--ubatch-size auto` chooses.
    pub(crate) batch_size: Option<i32>,
    pub(crate) ubatch_size: Ubatch,
    pub(crate) flash_attn: Tristate,
    pub(crate) cache_type_k: CacheType,
    pub(crate) cache_type_v: CacheType,
    pub(crate) no_kv_offload: bool,
    pub(crate) no_op_offload: bool,
    pub(crate) swa_full: bool,
    pub(crate) no_perf: bool,
    pub(crate) defrag_thold: bool,
    pub(crate) rope_scaling: Option<RopeScaling>,
    pub(crate) rope_freq_base: Option<f32>,
    pub(crate) rope_freq_scale: Option<f32>,
    pub(crate) yarn_orig_ctx: Option<i32>,
    pub(crate) yarn_ext_factor: Option<f32>,
    pub(crate) yarn_attn_factor: Option<f32>,
    pub(crate) yarn_beta_slow: Option<f32>,
    pub(crate) yarn_beta_fast: Option<f32>,

    // Threads.
    pub(crate) cpu: Cpu,
    pub(crate) cpu_batch: Cpu,
    pub(crate) numa: Option<Numa>,
    pub(crate) cpu_products: CpuProducts,

    // The log.
    pub(crate) log: LogOptions,
    pub(crate) verbosity: i32,
}

/// A model to be downloaded.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "download"), allow(dead_code, reason = "what a download alone uses"))]
pub(crate) struct Remote {
    pub(crate) url: Option<String>,
    /// `[REPO/]MODEL[:TAG]`
    pub(crate) docker_repo: Option<String>,
    /// `USER/MODEL[:QUANT]`
    pub(crate) hf_repo: Option<String>,
    pub(crate) hf_file: Option<String>,
    pub(crate) hf_token: Option<String>,
    pub(crate) offline: bool,
}

impl Remote {
    /// The flag and its value that say which model; with llama.cpp's tool it is the last of these, too, that counts.
    pub(crate) fn named(&self) -> Option<(&'static str, &str)> {
        let named = [("--hf-repo", &self.hf_repo), ("--docker-repo", &self.docker_repo), ("--model-url", &self.url)];
        named.into_iter().find_map(|(flag, value)| Some((flag, value.as_deref()?)))
    }
}

/// The calibration text: files add up, and a prompt takes the place of what was given before, as it gives way to what
/// comes after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Prompt(OsString),
    Files(Vec<Input>),
}

impl Flags {
    /// Returns the number of rows that an input must have: 1 for documents, whose last micro-batch may be short.
    pub(crate) fn min_rows(&self) -> u32 {
        self.min_rows.unwrap_or(if self.documents { 1 } else { 16 })
    }

    /// Returns the number of tokens per batch, unless `--ubatch-size auto` chooses it.
    pub(crate) fn batch_size(&self) -> i32 {
        self.batch_size.unwrap_or(2048)
    }

    /// Returns true if the NextN layer is collected too.
    pub(crate) fn collects_nextn(&self) -> bool {
        self.nextn || self.draft_model.is_some()
    }

    /// Returns true if the halves of the text are compared.
    pub(crate) fn compares_halves(&self) -> bool {
        self.convergence || self.stop_when_converged.is_some()
    }

    /// One more file of the calibration text.
    pub(super) fn add_file(&mut self, path: PathBuf, raw: bool) {
        self.dataset = Some(path.clone());
        let input = Input { path, raw };
        match &mut self.text {
            Some(Text::Files(files)) => files.push(input),
            _ => self.text = Some(Text::Files(vec![input])),
        }
    }
}

/// Tokens per micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ubatch {
    /// Not given: llama.cpp's default.
    Unset,
    Count(i32),
    /// Large enough that a model larger than memory is read as rarely as possible.
    Auto,
}

impl Ubatch {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            n => n.parse().map(Self::Count).map_err(|_| format!("'{text}' is not a whole number or auto")),
        }
    }

    /// Returns the number of tokens, unless `auto` chooses it.
    pub(crate) fn tokens(self) -> i32 {
        match self {
            Self::Count(n) => n,
            Self::Unset | Self::Auto => 512,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tristate {
    Auto,
    On,
    Off,
}

impl Tristate {
    /// `None` for `auto`.
    pub(super) fn forced(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

/// Threads; of those for batches what was not given is as for the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cpu {
    pub(crate) threads: Option<i32>,
    /// CPUs to run on, by number; empty for all.
    pub(crate) cpus: Vec<bool>,
    pub(crate) strict: Option<bool>,
    pub(crate) prio: Option<i32>,
    pub(crate) poll: Option<u32>,
}

/// Flags of which each adds to those before.
pub(super) const ADD_UP: &[&str] = &[
    "--file",
    "--binary-file",
    "--in-file",
    "--lora",
    "--lora-scaled",
    "--control-vector",
    "--control-vector-scaled",
    "--override-kv",
    "--override-tensor",
    "--rpc",
    "--cpu-mask",
    "--cpu-range",
    "--cpu-mask-batch",
    "--cpu-range-batch",
    "--logit-bias",
    "--dry-sequence-breaker",
    "--verbose",
];

impl Default for Flags {
    fn default() -> Self {
        Self {
            text: None,
            dataset: None,
            documents: false,
            chat_template: None,
            chat_template_file: None,
            chat_date: Date::default(),
            shuffle: false,
            seed: 0,
            tokens: None,
            dry_run: false,
            tokens_per_second: None,
            escape: false,
            output: None,
            output_format: None,
            fill_experts: FillExperts::None,
            fill_below: None,
            output_frequency: 10,
            save_frequency: 0,
            in_file: Vec::new(),
            legacy_chunk_size: None,
            show_statistics: false,
            chunk: 0,
            chunks: -1,
            no_ppl: false,
            process_output: false,
            parse_special: false,
            nextn: false,
            draft_model: None,
            keep_tail: false,
            min_rows: None,
            lanes: None,
            logit_lens: false,
            logit_prism: false,
            layer_similarity: false,
            lens_tokens: 32,
            lens_seed: 0,
            kl_divergence_base: None,
            resume: false,
            state_frequency: None,
            state_interval: 60,
            accumulate: None,
            sum_on: SumOn::Auto,
            shard: None,
            nan: Nan::Discard,
            max_bad_chunks: None,
            stop_when_covered: None,
            convergence: false,
            stop_when_converged: None,
            model: None,
            remote: Remote::default(),
            gpu_layers: GpuLayers::Auto,
            split_mode: SplitMode::Layer,
            tensor_split: Vec::new(),
            main_gpu: 0,
            devices: None,
            rpc: Vec::new(),
            rpc_timeout: 60,
            override_tensor: Vec::new(),
            moe_cache_mib: 0,
            fit: None,
            load_mode: LoadMode::Auto,
            lazy_mode: LazyMode::Auto,
            check_tensors: false,
            no_repack: false,
            no_host: false,
            override_kv: Vec::new(),
            lora: Vec::new(),
            control_vectors: Vec::new(),
            control_vector_layers: (0, 0),
            ctx_size: 512,
            batch_size: None,
            ubatch_size: Ubatch::Unset,
            flash_attn: Tristate::Auto,
            cache_type_k: CacheType::F16,
            cache_type_v: CacheType::F16,
            no_kv_offload: false,
            no_op_offload: false,
            swa_full: false,
            no_perf: false,
            defrag_thold: false,
            rope_scaling: None,
            rope_freq_base: None,
            rope_freq_scale: None,
            yarn_orig_ctx: None,
            yarn_ext_factor: None,
            yarn_attn_factor: None,
            yarn_beta_slow: None,
            yarn_beta_fast: None,
            cpu: Cpu::default(),
            cpu_batch: Cpu::default(),
            numa: None,
            cpu_products: CpuProducts::Auto,
            log: LogOptions::default(),
            verbosity: level::INFO,
        }
    }
}
