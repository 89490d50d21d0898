//! The command line: llama.cpp's flags, one to one, under its names.
#![expect(clippy::doc_markdown, reason = "these comments are the help text, which no Markdown renderer sees")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum};

/// Collect an importance matrix: what the inputs of a model's weights look like over a calibration text.
///
/// llama-quantize reads the result to decide where precision matters.
#[derive(Debug, Parser)]
#[command(
    name = "llama-imatrix",
    version,
    args_override_self = true,
    disable_version_flag = true,
    after_help = "EXAMPLES:\n  \
        llama-imatrix -m model.gguf -f calibration.txt -o imatrix.gguf\n  \
        llama-imatrix --in-file a.gguf --in-file b.gguf -o merged.gguf\n  \
        llama-imatrix --show-statistics --in-file imatrix.gguf"
)]
#[expect(clippy::struct_excessive_bools, reason = "one field a flag, as users know them")]
pub(crate) struct Flags {
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,

    /// The model to evaluate, a GGUF file
    #[arg(short = 'm', long, value_name = "FNAME", env = "LLAMA_ARG_MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// The calibration text
    #[arg(short = 'f', long, value_name = "FNAME")]
    pub(crate) file: Option<PathBuf>,

    /// The calibration text itself
    #[arg(short = 'p', long, value_name = "PROMPT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<OsString>,

    /// Whether --prompt came after --file: the last of them is the text.
    #[arg(skip)]
    pub(crate) prompt_is_last: bool,

    /// Where the matrix goes
    #[arg(short = 'o', long, visible_alias = "output-file", value_name = "FNAME", default_value = "imatrix.gguf")]
    pub(crate) output: PathBuf,

    /// The format it is written in
    #[arg(long, value_name = "FORMAT")]
    pub(crate) output_format: Option<OutputFormat>,

    /// Write the matrix every N chunks [short: -ofreq]
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true)]
    pub(crate) output_frequency: i32,

    /// Also write a copy named FNAME.at_N every N chunks; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) save_frequency: i32,

    /// Begin with chunk N
    #[arg(long, visible_alias = "from-chunk", value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) chunk: i32,

    /// Process at most N chunks; -1 for all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) chunks: i32,

    /// Compute perplexity (the default)
    #[arg(long, overrides_with = "no_ppl")]
    ppl: bool,

    /// Do not compute perplexity
    #[arg(long)]
    pub(crate) no_ppl: bool,

    /// Also collect for the output matrix
    #[arg(long)]
    pub(crate) process_output: bool,

    /// Also collect for the model's NextN (MTP) layer
    #[arg(long)]
    pub(crate) nextn: bool,

    /// A file with the NextN (MTP) layer of the model: also collect for it [short: -md]
    #[arg(long, visible_alias = "spec-draft-model", value_name = "FNAME", env = "LLAMA_ARG_SPEC_DRAFT_MODEL")]
    pub(crate) model_draft: Option<PathBuf>,

    /// Also process what is left of the text after the last whole chunk
    #[arg(long)]
    pub(crate) keep_tail: bool,

    /// Collect inputs of at least N rows; experts' inputs always are
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) min_rows: u32,

    /// Read special tokens written out in the text, such as <|im_start|>, as themselves
    #[arg(long)]
    pub(crate) parse_special: bool,

    /// A matrix to go on from, or to merge; repeat it, or separate files by commas
    #[arg(long, value_name = "FNAME", action = ArgAction::Append, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) in_file: Vec<String>,

    /// Tokens a chunk had in runs that .dat files came from [default: 512, in a merge that of --ctx-size]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) legacy_chunk_size: Option<i32>,

    /// Show the statistics of the matrix given by --in-file, and exit
    #[arg(long)]
    pub(crate) show_statistics: bool,

    /// Tokens a chunk
    #[arg(
        short = 'c',
        long,
        value_name = "N",
        env = "LLAMA_ARG_CTX_SIZE",
        default_value_t = 512,
        allow_negative_numbers = true
    )]
    pub(crate) ctx_size: i32,

    /// Tokens a batch: as many chunks as fit are evaluated side by side
    #[arg(
        short = 'b',
        long,
        value_name = "N",
        env = "LLAMA_ARG_BATCH",
        default_value_t = 2048,
        allow_negative_numbers = true
    )]
    pub(crate) batch_size: i32,

    /// Tokens computed at once [short: -ub]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_UBATCH", default_value_t = 512, allow_negative_numbers = true)]
    pub(crate) ubatch_size: i32,

    /// CPU threads; below 1 for all
    #[arg(short = 't', long, value_name = "N", env = "LLAMA_ARG_THREADS", allow_negative_numbers = true)]
    pub(crate) threads: Option<i32>,

    /// CPU threads for batches, as many as --threads if not given [short: -tb]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) threads_batch: Option<i32>,

    /// Layers to hold on devices other than the CPU: a number, auto or all [short: -ngl]
    #[arg(
        long,
        visible_alias = "gpu-layers",
        value_name = "N",
        env = "LLAMA_ARG_N_GPU_LAYERS",
        default_value = "auto",
        allow_hyphen_values = true
    )]
    pub(crate) n_gpu_layers: String,

    /// Fused attention: on, off or auto [short: -fa]
    #[arg(long, value_name = "WHEN", env = "LLAMA_ARG_FLASH_ATTN", default_value = "auto", allow_hyphen_values = true)]
    pub(crate) flash_attn: String,

    /// What to log: 0 output alone, 1 errors, 2 warnings, 3 information, 4 more of it, 5 everything [short: -lv]
    #[arg(
        long,
        visible_alias = "log-verbosity",
        value_name = "N",
        env = "LLAMA_ARG_LOG_VERBOSITY",
        default_value_t = 3,
        allow_negative_numbers = true
    )]
    pub(crate) verbosity: i32,
}

/// `--output-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// GGUF
    Gguf,
    /// The format of older versions
    Dat,
}

/// Flags of one dash and several letters, which clap would take apart.
const LONG_SHORTS: [(&str, &str); 7] = [
    ("-ofreq", "--output-frequency"),
    ("-ub", "--ubatch-size"),
    ("-tb", "--threads-batch"),
    ("-ngl", "--n-gpu-layers"),
    ("-fa", "--flash-attn"),
    ("-lv", "--verbosity"),
    ("-md", "--model-draft"),
];

/// Brings llama.cpp's spellings into clap's: several letters after one dash, `_` for `-` in long flags, `--usage`.
fn normalize(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    if let Some((_, long)) = LONG_SHORTS.iter().find(|(short, _)| *short == text) {
        return (*long).into();
    }
    match text.strip_prefix("--") {
        Some("usage") => "--help".into(),
        Some(_) => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            (name.replace('_', "-") + value).into()
        }
        None => arg,
    }
}

/// Why the flags give nothing to do.
#[derive(Debug)]
pub(crate) struct Exit(clap::Error);

impl Exit {
    /// Prints help or version on standard output, or what is wrong on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.0.use_stderr() {
            let _ = self.0.print();
            return ExitCode::SUCCESS;
        }
        match self.0.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(arg)) if self.0.kind() == ErrorKind::UnknownArgument => {
                crate::log::error(format_args!("invalid argument: {arg}\n\nto show complete usage, run with -h"));
            }
            _ => {
                let _ = self.0.print();
            }
        }
        ExitCode::FAILURE
    }
}

/// Parses the command line, the program's name first.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Flags, Exit> {
    let matches = Flags::command().try_get_matches_from(args.into_iter().map(normalize)).map_err(Exit)?;
    let mut flags = Flags::from_arg_matches(&matches).map_err(Exit)?;
    flags.prompt_is_last = matches.index_of("prompt") > matches.index_of("file");
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Flags {
        parse(std::iter::once("llama-imatrix").chain(words.split_whitespace()).map(OsString::from)).unwrap()
    }

    #[test]
    fn clap_accepts_the_definition() {
        Flags::command().debug_assert();
    }

    #[test]
    fn llama_cpp_spellings_are_accepted() {
        let flags = parse_words(
            "-m m.gguf -f t.txt -ofreq 3 -ub 128 -tb 4 -ngl 99 -fa on -lv 5 -c 256 -b 1024 -t 2 --in_file a,b --no_ppl",
        );
        assert_eq!((flags.output_frequency, flags.ubatch_size, flags.threads_batch), (3, 128, Some(4)));
        assert_eq!((flags.n_gpu_layers.as_str(), flags.flash_attn.as_str(), flags.verbosity), ("99", "on", 5));
        assert_eq!((flags.ctx_size, flags.batch_size, flags.threads), (256, 1024, Some(2)));
        assert_eq!(flags.in_file, ["a,b"]);
        assert!(flags.no_ppl);
        assert_eq!(parse_words("--output-file x --from-chunk 2").chunk, 2);
        assert_eq!(parse_words("--chunks -1 --gpu-layers -2 --log-verbosity 0").chunks, -1);
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts_and_files_add_up() {
        assert_eq!(parse_words("-c 1 -c 2").ctx_size, 2);
        assert!(!parse_words("--no-ppl --ppl").no_ppl);
        assert!(parse_words("--ppl --no-ppl").no_ppl);
        assert_eq!(parse_words("--in-file a --in-file b").in_file, ["a", "b"]);
    }

    #[test]
    fn the_last_text_counts() {
        assert!(parse_words("-f a -p b").prompt_is_last);
        assert!(!parse_words("-p b -f a").prompt_is_last);
        assert!(parse_words("-p b").prompt_is_last);
    }

    #[test]
    fn values_keep_their_underscores() {
        assert_eq!(parse_words("--prompt a_b").prompt.unwrap(), "a_b");
        assert_eq!(parse_words("--prompt=--a_b").prompt.unwrap(), "--a_b");
    }
}
