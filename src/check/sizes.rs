//! Findings about the matrix's own numbers, sizes and metadata.

use super::finding::{Findings, Level, listed};
use super::scan::{EntryScan, Scans};
use super::{Model, quantization};
use crate::imatrix::{Loaded, Slice, describe_filled};

/// Reports numbers that no run writes.
pub(super) fn numbers(findings: &mut Findings, matrix: &Loaded<Slice<'_>>, scans: &Scans<'_>) {
    let names = |is: &dyn Fn(&EntryScan) -> bool| -> Vec<String> {
        scans.iter().filter(|(_, scan)| is(scan)).map(|(name, _)| name.to_owned()).collect()
    };
    let not_finite = names(&has_not_finite);
    if !not_finite.is_empty() {
        let (n, shown) = (not_finite.len(), listed(&not_finite));
        findings
            .add(Level::Error, "not-finite", not_finite, format!("in_sum2 is not finite in {n} entries: {shown}"))
            .hint("llama-quantize refuses such a matrix for every type; collect it again");
    }
    let negative = names(&|scan| scan.matrices.iter().any(|m| m.negative > 0));
    if !negative.is_empty() {
        let text = format!("in_sum2 has numbers below 0 in {} entries: {}", negative.len(), listed(&negative));
        findings
            .add(Level::Error, "negative", negative, text)
            .hint("a sum of squares is never negative: the file is damaged");
    }
    let sums = names(&|scan| scan.not_finite_sums > 0);
    if !sums.is_empty() {
        let text = format!("in_sum is not finite in {} entries: {}", sums.len(), listed(&sums));
        findings.add(Level::Note, "not-finite-in-sum", sums, text).hint("llama-quantize does not read in_sum");
    }
    let zero = names(&|scan| scan.matrices.iter().any(|m| m.all_zero && !m.unseen));
    if !zero.is_empty() {
        let text = format!("all sums are 0 in {} entries, for at least one matrix: {}", zero.len(), listed(&zero));
        findings
            .add(Level::Gap, "all-zero", zero, text)
            .hint("a weight whose inputs are always 0 is quantized to zeros");
    }
    if matrix.is_legacy {
        let text = "a legacy .dat file has no tokens per expert and no in_sum";
        findings.add(Level::Note, "legacy", Vec::new(), text.to_owned());
    }
}

/// Returns true if a mean of squares is not finite where `llama-quantize` reads it: not in an expert without tokens.
pub(super) fn has_not_finite(scan: &EntryScan) -> bool {
    scan.matrices.iter().any(|matrix| matrix.not_finite > 0 && !matrix.unseen)
}

/// Reports what the file does not say about its origin.
pub(super) fn metadata(findings: &mut Findings, matrix: &Loaded<Slice<'_>>) {
    if matrix.is_legacy {
        return;
    }
    if let Some(text) = describe_filled(&matrix.filled) {
        findings.add(Level::Note, "filled-experts", matrix.filled.keys().cloned().collect(), text);
    }
    if !matrix.has_metadata {
        let text = "imatrix.datasets, imatrix.chunk_count or imatrix.chunk_size is missing in the file";
        findings
            .add(Level::Error, "no-metadata", Vec::new(), text.to_owned())
            .hint("llama-quantize refuses such a file; 'llama-imatrix merge FILE -o NEW' writes a complete one");
    }
    let without = matrix.entries.values().filter(|entry| entry.sum.is_none()).count();
    if without > 0 {
        let text = format!("{without} of {} entries have no in_sum", matrix.entries.len());
        findings.add(Level::Note, "no-in-sum", Vec::new(), text).hint("llama-quantize does not read in_sum");
    }
}

/// Reports entries whose size is not that of their weight, unless the prediction for a type has reported them.
pub(super) fn wrong_sizes(findings: &mut Findings, model: &Model, matrix: &Loaded<Slice<'_>>, with_type: bool) {
    let wrong: Vec<_> = model.tensors.iter().filter(|t| quantization::wrong_size(t, matrix).is_some()).collect();
    let Some(first) = wrong.first() else { return };
    if with_type {
        return;
    }
    let (found, expected) = quantization::wrong_size(first, matrix).unwrap_or_default();
    let names: Vec<String> = wrong.iter().map(|t| t.name.clone()).collect();
    let text = format!(
        "{} entries have another size than their weight: {} has {found} values, expected {expected}",
        wrong.len(),
        first.name
    );
    findings.add(Level::Error, "wrong-size", names, text).hint("the matrix is of another model");
}
