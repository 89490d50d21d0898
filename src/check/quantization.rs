//! Predicts a run of `llama-quantize --imatrix MATRIX MODEL OUTPUT TYPE`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Model;
use super::finding::{Findings, Level, listed};
use super::reasons::convertible;
use super::scan::Scans;
use super::sizes::has_not_finite;
use crate::gguf::DType;
use crate::imatrix::{Loaded, Slice};
use crate::mixture::{FileType, Overrides, Plan, Planned, TensorInfo, is_quantized, uses_matrix};

/// What `llama-quantize` does with a matrix and a type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quantization {
    /// The type.
    #[serde(rename = "type")]
    pub file_type: &'static str,
    /// True if `llama-quantize` stops with an error.
    pub refused: bool,
    /// Why, in the order of its tensors: it names the first.
    pub refusals: Vec<Refusal>,
    /// Names of tensors that are quantized without data although the quantizer of their type uses it.
    pub without_data: Vec<String>,
    /// Flags of `llama-quantize` that give weights without data a type that needs none.
    pub overrides: Vec<String>,
    /// Target of each tensor, in the order in which they are written.
    pub tensors: Vec<Target>,
}

/// A reason for which `llama-quantize` stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The tensor; `None` if the whole matrix is refused.
    pub tensor: Option<String>,
    /// `not-finite`, `no-metadata`, `no-target`, `wrong-size`, `missing`, `requantize` or `not-convertible`.
    pub reason: &'static str,
}

/// The target of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Name.
    pub name: String,
    /// Type in the model file.
    pub from: &'static str,
    /// Type in the quantized file.
    pub to: &'static str,
    /// True if this type is written only with data.
    pub requires_matrix: bool,
    /// True if the matrix has data of the tensor's size.
    pub has_data: bool,
}

/// Returns the numbers of values found and expected, if an entry does not have its weight's size.
pub(super) fn wrong_size(tensor: &TensorInfo, matrix: &Loaded<Slice<'_>>) -> Option<(usize, u64)> {
    let found = matrix.entries.get(&tensor.name)?.sum2.len();
    let expected = tensor.shape[0].saturating_mul(tensor.shape[2]);
    (found as u64 != expected).then_some((found, expected))
}

/// Returns the tensors whose quantizer uses a matrix: with a type those that it converts, else all that may be converted.
pub(super) fn used_tensors<'a>(model: &'a Model, quantization: Option<&Quantization>) -> Vec<&'a TensorInfo> {
    let Some(quantization) = quantization.filter(|q| !q.tensors.is_empty()) else { return convertible(model) };
    let uses = |target: &&Target| {
        let to = DType::ALL.iter().find(|dtype| dtype.name() == target.to);
        target.from != target.to && to.is_some_and(|&to| uses_matrix(to))
    };
    let tensors: BTreeMap<&str, &TensorInfo> = model.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let used = quantization.tensors.iter().filter(uses);
    used.filter_map(|target| tensors.get(target.name.as_str()).copied()).collect()
}

/// Predicts the run and reports why it would stop.
pub(super) fn predict(
    findings: &mut Findings,
    model: &Model,
    matrix: &Loaded<Slice<'_>>,
    scans: &Scans<'_>,
    file_type: FileType,
) -> Quantization {
    let mut refusals = whole_matrix(matrix, scans);
    let plan = match Plan::new(&model.hparams, &model.tensors, file_type, true, &Overrides::new()) {
        Ok(plan) => plan,
        Err(rule) => {
            findings
                .add(Level::Error, "no-target", Vec::new(), format!("llama-quantize cannot write {file_type}: {rule}"))
                .hint("choose another type");
            refusals.push(Refusal { tensor: None, reason: "no-target" });
            Plan::default()
        }
    };
    for planned in plan.tensors.iter().filter(|planned| planned.is_converted()) {
        if let Some(reason) = refusal(planned, matrix) {
            refusals.push(Refusal { tensor: Some(planned.tensor.name.clone()), reason });
        }
    }
    let overrides = overrides(model, &plan, matrix, file_type);
    report(findings, model, matrix, file_type, &refusals, &overrides);
    let without_data = plan
        .tensors
        .iter()
        .filter(|planned| planned.is_converted() && uses_matrix(planned.target) && !has_data(&planned.tensor, matrix));
    Quantization {
        file_type: file_type.name(),
        refused: !refusals.is_empty(),
        without_data: without_data.map(|planned| planned.tensor.name.clone()).collect(),
        overrides,
        tensors: plan.tensors.iter().map(|planned| target(planned, matrix)).collect(),
        refusals,
    }
}

fn target(planned: &Planned, matrix: &Loaded<Slice<'_>>) -> Target {
    Target {
        name: planned.tensor.name.clone(),
        from: planned.tensor.dtype.name(),
        to: planned.target.name(),
        requires_matrix: planned.requires_matrix,
        has_data: has_data(&planned.tensor, matrix),
    }
}

fn has_data(tensor: &TensorInfo, matrix: &Loaded<Slice<'_>>) -> bool {
    matrix.entries.contains_key(&tensor.name) && wrong_size(tensor, matrix).is_none()
}

/// Reasons for which `llama-quantize` refuses a matrix before it reads the model's tensors.
fn whole_matrix(matrix: &Loaded<Slice<'_>>, scans: &Scans<'_>) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if !matrix.is_legacy && !matrix.has_metadata {
        refusals.push(Refusal { tensor: None, reason: "no-metadata" });
    }
    if scans.iter().any(|(_, scan)| has_not_finite(scan)) {
        refusals.push(Refusal { tensor: None, reason: "not-finite" });
    }
    refusals
}

/// Returns the first reason for which `llama-quantize` stops at a tensor that it converts.
fn refusal(planned: &Planned, matrix: &Loaded<Slice<'_>>) -> Option<&'static str> {
    let tensor = &planned.tensor;
    let is_embedding = matches!(tensor.name.as_str(), "token_embd.weight" | "per_layer_token_embd.weight");
    if wrong_size(tensor, matrix).is_some() && !is_embedding {
        Some("wrong-size")
    } else if planned.requires_matrix && !has_data(tensor, matrix) {
        Some("missing")
    } else if is_quantized(tensor.dtype) {
        Some("requantize")
    } else if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
        Some("not-convertible")
    } else {
        None
    }
}

fn report(
    findings: &mut Findings,
    model: &Model,
    matrix: &Loaded<Slice<'_>>,
    file_type: FileType,
    refusals: &[Refusal],
    overrides: &[String],
) {
    let names = |reason: &str| -> Vec<String> {
        refusals.iter().filter(|r| r.reason == reason).filter_map(|r| r.tensor.clone()).collect()
    };
    let missing = names("missing");
    if !missing.is_empty() {
        let text = format!(
            "llama-quantize refuses {file_type}: {} weights that it writes only with a matrix have no data: {}",
            missing.len(),
            listed(&missing)
        );
        findings.add(Level::Error, "missing-required", missing, text);
        findings.hint(if overrides.is_empty() {
            "collect their data".to_owned()
        } else {
            "collect their data, or call llama-quantize with the --tensor-type flags below".to_owned()
        });
    }
    let wrong = names("wrong-size");
    if let Some(tensor) = wrong.first().and_then(|name| model.tensor(name)) {
        let (found, expected) = wrong_size(tensor, matrix).unwrap_or_default();
        let text = format!(
            "{} entries have another size than their weight: {} has {found} values, expected {expected}",
            wrong.len(),
            tensor.name
        );
        findings.add(Level::Error, "wrong-size", wrong, text).hint("the matrix is of another model");
    }
    let requantized = names("requantize");
    if !requantized.is_empty() {
        let text =
            format!("llama-quantize refuses to quantize {} tensors again: {}", requantized.len(), listed(&requantized));
        findings
            .add(Level::Error, "requantize", requantized, text)
            .hint("start from a model in f16, bf16 or f32; --allow-requantize loses quality");
    }
    let integers = names("not-convertible");
    if !integers.is_empty() {
        let text = format!("llama-quantize cannot convert {} tensors: {}", integers.len(), listed(&integers));
        findings.add(Level::Error, "not-convertible", integers, text).hint("they are not floating-point numbers");
    }
}

/// Returns flags that give each weight without data a type that needs none.
fn overrides(model: &Model, plan: &Plan, matrix: &Loaded<Slice<'_>>, file_type: FileType) -> Vec<String> {
    let mut types = Overrides::new();
    let mut plan = plan.clone();
    // A type that is set changes how many tensors of its kind the mix counts, and so the types of others.
    for _ in 0..8 {
        let refused = plan.tensors.iter().filter(|planned| refusal(planned, matrix) == Some("missing"));
        let more: Vec<_> = refused
            .filter(|planned| planned.is_converted())
            .map(|planned| (planned.tensor.name.clone(), replacement(planned.target, file_type)))
            .collect();
        if more.is_empty() {
            return flags(&types);
        }
        types.extend(more);
        match Plan::new(&model.hparams, &model.tensors, file_type, true, &types) {
            Ok(next) => plan = next,
            Err(_) => break,
        }
    }
    Vec::new()
}

/// Returns the smallest type that is written without data in place of one that is not.
fn replacement(target: DType, file_type: FileType) -> DType {
    match target {
        DType::IQ3_XXS => DType::Q3_K,
        _ if file_type == FileType::Q2_K_S => DType::Q3_K,
        _ => DType::Q2_K,
    }
}

/// Formats flags, one per kind of weight and type. `llama-quantize` reads the name as a regular expression.
fn flags(types: &Overrides) -> Vec<String> {
    let mut kinds: BTreeMap<(String, DType), Vec<&str>> = BTreeMap::new();
    for (name, &dtype) in types {
        let (layer, rest) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).unwrap_or(("", name));
        kinds.entry((rest.replace('.', "\\."), dtype)).or_default().push(layer);
    }
    let mut flags = Vec::new();
    for ((kind, dtype), mut layers) in kinds {
        layers.sort_by_key(|layer| layer.parse::<u32>().unwrap_or(u32::MAX));
        let pattern = match layers.as_slice() {
            [""] => format!("^{kind}$"),
            [layer] => format!("^blk\\.{layer}\\.{kind}$"),
            _ => format!("^blk\\.({})\\.{kind}$", layers.join("|")),
        };
        flags.push(format!("--tensor-type '{pattern}={dtype}'"));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_join_the_layers_of_a_kind() {
        let types: Overrides = ["blk.10.attn_q.weight", "blk.2.attn_q.weight", "blk.0.ffn_up.weight", "cls.weight"]
            .into_iter()
            .map(|name| (name.to_owned(), DType::Q2_K))
            .collect();
        assert_eq!(
            flags(&types),
            [
                r"--tensor-type '^blk\.(2|10)\.attn_q\.weight$=q2_K'",
                r"--tensor-type '^cls\.weight$=q2_K'",
                r"--tensor-type '^blk\.0\.ffn_up\.weight$=q2_K'",
            ]
        );
    }
}
