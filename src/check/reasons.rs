//! Weights without an entry, each with its reason, and entries without a weight.

use std::collections::{BTreeMap, BTreeSet};

use super::Model;
use super::finding::{Findings, Level, listed, weights_have};
use crate::imatrix::{Loaded, Slice};
use crate::mixture::{TensorInfo, allows_quantization};

/// Reports a matrix that has nothing in common with the model. Returns false then.
pub(super) fn common(findings: &mut Findings, model: &Model, matrix: &Loaded<Slice<'_>>) -> bool {
    let names: BTreeSet<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let n = matrix.entries.keys().filter(|name| names.contains(name.as_str())).count();
    if n > 0 {
        return true;
    }
    let example = matrix.entries.keys().next().map_or("", String::as_str);
    let weight = model.tensors.iter().find(|tensor| tensor.layer().is_some()).map_or("", |tensor| &tensor.name);
    let text = format!(
        "no entry is a weight of the model: the matrix has names such as {example}, the model ({}) such as {weight}",
        model.hparams.arch
    );
    findings.add(Level::Error, "other-model", Vec::new(), text).hint("the matrix is of another model or architecture");
    false
}

/// Why a weight has no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// All dense weights of the layers are missing, but routed ones have entries.
    FewRows,
    /// All weights of some layers are missing.
    Layer,
    /// The `NextN` layers.
    NextN,
    /// Only `--process-output` collects the output matrix.
    Output,
    /// Not a part of the layers.
    Outside,
    /// Looked up, not multiplied.
    TokenEmbd,
    /// No other reason applies.
    NotMultiplied,
}

/// Reports weights that use a matrix and have no entry.
pub(super) fn missing(findings: &mut Findings, model: &Model, matrix: &Loaded<Slice<'_>>, used: &[&TensorInfo]) {
    let context = Context::new(model, matrix);
    let mut groups: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for tensor in used.iter().filter(|tensor| !matrix.entries.contains_key(&tensor.name)) {
        groups.entry(context.reason(tensor)).or_default().push(tensor.name.clone());
    }
    for (reason, names) in groups {
        let (n, shown) = (names.len(), listed(&names));
        let (level, code, what, hint) = describe(reason);
        let text = format!("{} no data: {shown} ({what})", weights_have(n));
        findings.add(level, code, names, text).hint(hint);
    }
}

fn describe(reason: Reason) -> (Level, &'static str, &'static str, &'static str) {
    match reason {
        Reason::FewRows => (
            Level::Gap,
            "few-rows",
            "only routed experts have data, as after micro-batches of under 16 rows",
            "collect with -ub and -c of at least 16, or with --min-rows 1",
        ),
        Reason::Layer => (
            Level::Gap,
            "missing-layer",
            "no weight of their layers has data",
            "the matrix is of a model with fewer layers, or of a part of the model",
        ),
        Reason::NextN => (Level::Gap, "missing-nextn", "NextN layer", "collect with --nextn"),
        Reason::Output => {
            (Level::Note, "missing-output", "output matrix", "collect with --process-output to have data for it")
        }
        Reason::Outside => (Level::Note, "missing-outside", "outside the layers", "such weights are not collected"),
        Reason::TokenEmbd => (
            Level::Note,
            "missing-token-embd",
            "token embedding: rows are looked up, so there is no input to collect",
            "if the model has no output matrix, --process-output collects its use as one",
        ),
        Reason::NotMultiplied => (
            Level::Gap,
            "missing",
            "the run did not multiply by them, or collected fewer than 16 rows at once",
            "collect with this model file, and with -ub and -c of at least 16",
        ),
    }
}

/// What the reasons depend on.
struct Context {
    only_routed: bool,
    /// Layers that have an entry.
    layers: BTreeSet<u32>,
    first_nextn: Option<u32>,
}

impl Context {
    fn new(model: &Model, matrix: &Loaded<Slice<'_>>) -> Self {
        let with_entry = || model.tensors.iter().filter(|tensor| matrix.entries.contains_key(&tensor.name));
        let first_nextn = model.hparams.first_nextn();
        let in_trunk = |tensor: &TensorInfo| tensor.layer().is_some_and(|layer| first_nextn.is_none_or(|n| layer < n));
        let has_experts = with_entry().any(is_routed);
        let has_dense = with_entry().any(|tensor| in_trunk(tensor) && !is_routed(tensor));
        Self {
            only_routed: has_experts && !has_dense,
            layers: with_entry().filter_map(TensorInfo::layer).collect(),
            first_nextn,
        }
    }

    fn reason(&self, tensor: &TensorInfo) -> Reason {
        let Some(layer) = tensor.layer() else {
            return match tensor.name.as_str() {
                "output.weight" => Reason::Output,
                name if name.contains("token_embd") => Reason::TokenEmbd,
                _ => Reason::Outside,
            };
        };
        if self.first_nextn.is_some_and(|first| layer >= first) || tensor.name.contains(".nextn.") {
            Reason::NextN
        } else if self.only_routed && !is_routed(tensor) {
            Reason::FewRows
        } else if !self.layers.contains(&layer) {
            Reason::Layer
        } else {
            Reason::NotMultiplied
        }
    }
}

/// Returns true for a weight of routed experts.
pub(super) fn is_routed(tensor: &TensorInfo) -> bool {
    tensor.shape[2] > 1 && tensor.name.contains("_exps")
}

/// Reports entries that are not a weight of the model.
pub(super) fn extra(findings: &mut Findings, model: &Model, matrix: &Loaded<Slice<'_>>) {
    let names: BTreeSet<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let extra: Vec<String> = matrix.entries.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
    if extra.is_empty() {
        return;
    }
    let text =
        format!("{} of {} entries are no weight of the model: {}", extra.len(), matrix.entries.len(), listed(&extra));
    findings
        .add(Level::Gap, "extra", extra, text)
        .hint("is the matrix of this model? llama-quantize ignores such entries");
}

/// Returns the tensors that some type converts.
pub(super) fn convertible(model: &Model) -> Vec<&TensorInfo> {
    model
        .tensors
        .iter()
        .filter(|tensor| allows_quantization(&model.hparams.arch, &tensor.name, tensor.n_dims()))
        .collect()
}
