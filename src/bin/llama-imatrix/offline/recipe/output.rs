//! The output of a recipe: its files and tables.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use llama_imatrix::atomic_file;
use llama_imatrix::quantize::curve::Curve;
use llama_imatrix::quantize::{Recipe, rules, types_file};
use llama_imatrix::report::sheet::Sheet;
use llama_imatrix::report::{self, recipe as sheets};
use serde::Serialize;

use super::{Plan, RecipeArgs};
use crate::offline::tables::{By, Format, titled};
use crate::ui::log;
use crate::ui::print::print_document;
use crate::ui::results::shell_word;

/// The output of `recipe --format json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// `llama-imatrix recipe`.
    format: &'static str,
    /// 1.
    version: u32,
    model: String,
    matrix: String,
    /// Size of the file that llama-quantize writes with these types and this matrix.
    file_bytes: u64,
    tensor_bytes: u64,
    bits_per_weight: f64,
    /// Sum of all costs, and a number that no mix within the budget is below.
    cost: f64,
    cost_bound: f64,
    is_optimal: bool,
    /// Rows per weight that were quantized; null for all.
    rows: Option<u64>,
    seed: u64,
    /// Arguments of llama-quantize.
    command: Vec<String>,
    tensors: &'a Sheet,
    layers: &'a Sheet,
}

/// Writes the files, then the tables.
pub(super) fn write(args: &RecipeArgs, plan: &Plan) -> anyhow::Result<()> {
    let recipe = &plan.recipe;
    if let Some(path) = &args.output {
        save(path, &types_file::llama_quantize(&recipe.picks))?;
    }
    if let Some(path) = &args.custom_q {
        save(path, &(types_file::ik_llama(&recipe.picks) + "\n"))?;
    }
    if let Some(path) = &args.curve {
        save(path, &Curve::of(recipe).to_csv())?;
    }
    let tensors = sheets::weights(&plan.source, &plan.measured, recipe);
    let layers = sheets::layers(&plan.source, recipe);
    print_document(&shown(args, plan, &tensors, &layers)?)
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    let saved = atomic_file::save(path, |out| out.write_all(text.as_bytes()));
    saved.with_context(|| format!("cannot save '{}'", path.display()))
}

fn shown(args: &RecipeArgs, plan: &Plan, tensors: &Sheet, layers: &Sheet) -> anyhow::Result<String> {
    let recipe = &plan.recipe;
    let command = command(args, recipe, plan);
    match args.format {
        Format::Json => {
            let document = Document {
                format: "llama-imatrix recipe",
                version: 1,
                model: args.model.display().to_string(),
                matrix: args.matrix.display().to_string(),
                file_bytes: recipe.file_bytes,
                tensor_bytes: recipe.tensor_bytes,
                bits_per_weight: recipe.bits_per_weight(),
                cost: recipe.cost,
                cost_bound: recipe.bound,
                is_optimal: recipe.is_optimal,
                rows: (!args.exact).then_some(args.rows),
                seed: args.seed,
                command,
                tensors,
                layers,
            };
            Ok(serde_json::to_string_pretty(&document)? + "\n")
        }
        Format::Csv => Ok(titled(Format::Csv, "", if args.by == Some(By::Layer) { layers } else { tensors })),
        Format::Table | Format::Markdown => {
            let mut text = String::new();
            if args.by != Some(By::Layer) {
                text += &titled(args.format, &format!("Types for {}", args.model.display()), tensors);
            }
            if args.by != Some(By::Tensor) {
                text += &titled(args.format, "Layers", layers);
            }
            let _ = writeln!(
                text,
                "File: {} bytes ({}), {:.4} bits per weight",
                recipe.file_bytes,
                report::text::size(recipe.file_bytes),
                recipe.bits_per_weight()
            );
            if args.output.is_none() {
                log::info(format_args!("no file written: give -o FILE for llama-quantize --tensor-type-file"));
            }
            let _ = writeln!(
                text,
                "{}",
                command.iter().map(|word| shell_word(Path::new(word))).collect::<Vec<_>>().join(" ")
            );
            Ok(text)
        }
    }
}

/// The command that makes the model. It names the matrix exactly as it was given here: llama-quantize stores the name.
fn command(args: &RecipeArgs, recipe: &Recipe, plan: &Plan) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let mut words = vec!["llama-quantize".to_owned()];
    if plan.source.weights().iter().any(|weight| weight.dtype == llama_imatrix::gguf::DType::Q8_0) {
        words.push("--allow-requantize".to_owned());
    }
    words.extend(["--imatrix".to_owned(), text(&args.matrix), "--tensor-type-file".to_owned()]);
    words.push(args.output.as_deref().map_or_else(|| "TYPES".to_owned(), text));
    let stem = args.model.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let name = format!("{stem}-{:.2}bpw.gguf", recipe.bits_per_weight());
    words.extend([text(&args.model), name, rules::preset(recipe.main_type()).to_owned()]);
    words
}
