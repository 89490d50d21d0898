//! The result of a check, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::check::{Check, Finding, LayerExperts, Level, Quantization};

/// Formats the result of a check. The last line is the verdict.
#[must_use]
pub fn text(check: &Check, model: &str, matrix: &str) -> String {
    let mut out = String::new();
    out += &line(&format!("model:  {}", model_line(check, model)));
    out += &line(&format!("matrix: {}", matrix_line(check, matrix)));
    out += &line(&format!("data:   {}", data_line(check)));
    if let Some(point) = &check.convergence {
        out += &line(&format!("halves: {}", point.describe()));
    }
    if let Some(quantization) = &check.quantization {
        out += &line(&format!("types:  {}", types_line(quantization)));
    }
    for finding in &check.findings {
        out += &finding_lines(finding);
    }
    if !check.experts.is_empty() {
        out += "\nexperts without tokens or with few:\n";
        check.experts.iter().for_each(|layer| out += &line(&format!("  {}", experts_line(layer))));
    }
    if let Some(quantization) = check.quantization.as_ref().filter(|q| !q.overrides.is_empty()) {
        out += "\nflags of llama-quantize that need no data for these weights:\n";
        quantization.overrides.iter().for_each(|flag| out += &line(&format!("  {flag}")));
    }
    out + "\n" + &line(&check.summary)
}

/// Ends a line. Line ends and escape sequences in a name must not reach the terminal.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).chain(['\n']).collect()
}

fn model_line(check: &Check, name: &str) -> String {
    let model = &check.model;
    let mut out = format!("{name}: {}, {} layers", model.architecture, model.layers);
    if model.nextn_layers > 0 {
        let _ = write!(out, " ({} NextN)", model.nextn_layers);
    }
    if model.experts > 0 {
        let _ = write!(out, ", {} experts", model.experts);
    }
    let _ = write!(out, ", {} tensors", model.tensors);
    if model.files > 1 {
        let _ = write!(out, " in {} files", model.files);
    }
    let _ = write!(out, ", {} parameters", scaled(model.parameters));
    out
}

fn matrix_line(check: &Check, name: &str) -> String {
    let matrix = &check.matrix;
    let mut out = format!("{name}: {} entries, {} chunks", matrix.entries, matrix.chunks);
    if matrix.chunk_size > 0 {
        let _ = write!(out, " of {} tokens", matrix.chunk_size);
    }
    if matrix.tokens > 0 {
        let _ = write!(out, ", {} tokens", matrix.tokens);
    }
    if !matrix.datasets.is_empty() {
        let _ = write!(out, " of {}", matrix.datasets.join(", "));
    }
    out += match matrix.entries_with_in_sum {
        0 => "; no in_sum",
        n if n == matrix.entries => "; with in_sum",
        _ => "; in_sum in a part of the entries",
    };
    out
}

fn data_line(check: &Check) -> String {
    let coverage = &check.coverage;
    format!(
        "{} of {} weights that use a matrix have an entry; {:.2} % of their parameters are without data",
        coverage.tensors_with_data,
        coverage.tensors,
        100.0 * coverage.share_without_data()
    )
}

fn types_line(quantization: &Quantization) -> String {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    quantization.tensors.iter().filter(|t| t.from != t.to).for_each(|t| *types.entry(t.to).or_default() += 1);
    let listed: Vec<_> = types.iter().map(|(name, n)| format!("{n} {name}")).collect();
    if listed.is_empty() {
        return format!("{} converts no tensor", quantization.file_type);
    }
    format!("{} converts to {}", quantization.file_type, listed.join(", "))
}

fn finding_lines(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Error => "error",
        Level::Gap => "gap",
        Level::Note => "note",
    };
    let mut out = line(&format!("{level}: {}", finding.text));
    if let Some(hint) = &finding.hint {
        out += &line(&format!("  hint: {hint}"));
    }
    out
}

fn experts_line(layer: &LayerExperts) -> String {
    let prefix = format!("blk.{}.", layer.layer);
    let kind = |name: &String| name.trim_start_matches(&prefix).trim_end_matches(".weight").to_owned();
    let kinds = layer.weights.iter().map(kind).collect::<Vec<_>>().join(", ");
    let mut out = format!("layer {}, {} experts, {kinds}:", layer.layer, layer.experts);
    if !layer.unseen.is_empty() {
        let _ = write!(out, " no token {}", crate::check::ranges(&layer.unseen));
    }
    if !layer.few.is_empty() {
        let few: Vec<_> = layer.few.iter().map(|few| format!("{} ({})", few.expert, few.tokens)).collect();
        let separator = if layer.unseen.is_empty() { "" } else { ";" };
        let _ = write!(out, "{separator} few tokens {}", few.join(", "));
    }
    out
}

/// Returns a number with a unit: `30.5 B`.
fn scaled(n: u64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    let n = n as f64;
    UNITS
        .iter()
        .find(|(size, _)| n >= *size)
        .map_or_else(|| n.to_string(), |(size, unit)| format!("{:.1} {unit}", n / size))
}
