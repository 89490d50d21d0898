//! `check`: will a matrix do for a model?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use llama_imatrix::check::{self, MIN_TOKENS, Model, Options};
use llama_imatrix::imatrix::File;
use llama_imatrix::mixture::FileType;
use llama_imatrix::report::check::text;
use llama_imatrix::report::json::CheckDocument;

use super::load::convergence_beside;
use crate::ui::log;
use crate::ui::print::print_document;

/// Tells whether a matrix will do for a model and a type. Exit code: 0 it will, 1 it will not, 2 with gaps; see docs/check.md
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Model file; the first file of a split model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Importance matrix, GGUF or legacy .dat
    #[arg(value_name = "MATRIX")]
    matrix: PathBuf,
    /// Type to quantize to: also predict whether llama-quantize refuses the matrix
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type(), ignore_case = true)]
    file_type: Option<FileType>,
    /// List experts that saw fewer tokens than this
    #[arg(long, value_name = "N", default_value_t = MIN_TOKENS, value_parser = clap::value_parser!(i64).range(0..))]
    min_tokens: i64,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines of text; the last is the verdict.
    #[default]
    Text,
    /// One document, described by docs/check.schema.json.
    Json,
}

fn file_type() -> impl clap::builder::TypedValueParser<Value = FileType> {
    let names = FileType::ALL.iter().map(|file_type| file_type.name()).chain(["Q3_K", "Q4_K", "Q5_K"]);
    PossibleValuesParser::new(names)
        .try_map(|name| FileType::from_name(&name).ok_or_else(|| format!("unknown type '{name}'")))
}

pub(crate) fn run(args: &Check) -> anyhow::Result<ExitCode> {
    let model = Model::open(&args.model).context("cannot read the model's header")?;
    let failed = || format!("failed to load imatrix '{}'", args.matrix.display());
    let file = File::open(&args.matrix).with_context(failed)?;
    let matrix = file.load().with_context(failed)?;
    let options = Options { file_type: args.file_type, min_tokens: args.min_tokens };
    let mut check = check::check(&model, &matrix, options);
    if !matrix.is_legacy {
        match convergence_beside(&args.matrix, &matrix.entries, &matrix.filled) {
            Ok(Some(file)) => check = check.with_convergence(&file),
            Ok(None) => {}
            Err(reason) => log::warn(format_args!("{reason}")),
        }
    }
    let exit_code = check.verdict.exit_code();
    let (model_file, matrix_file) = (args.model.display().to_string(), args.matrix.display().to_string());
    let document = match args.format {
        Format::Text => text(&check, &model_file, &matrix_file),
        Format::Json => {
            let (format, version) = ("llama-imatrix check", 1);
            let document = CheckDocument { format, version, model_file, matrix_file, exit_code, check };
            serde_json::to_string_pretty(&document)? + "\n"
        }
    };
    print_document(&document)?;
    Ok(ExitCode::from(exit_code))
}
