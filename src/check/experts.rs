//! Experts without tokens, and experts with few.

use std::collections::BTreeMap;

use serde::Serialize;

use super::finding::{Findings, Level};
use super::reasons::is_routed;
use super::scan::{EntryScan, Scans};
use crate::imatrix::{Loaded, Slice};
use crate::mixture::TensorInfo;

/// The experts of a layer that have few tokens or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerExperts {
    /// Layer.
    pub layer: u32,
    /// Weights of these experts that have the same tokens.
    pub weights: Vec<String>,
    /// Number of experts.
    pub experts: usize,
    /// Experts that no token reached.
    pub unseen: Vec<usize>,
    /// Experts with few tokens.
    pub few: Vec<FewTokens>,
}

/// An expert with few tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FewTokens {
    /// Index of the expert.
    pub expert: usize,
    /// Number of tokens.
    pub tokens: i64,
}

/// Returns the layers that have experts with fewer than `min_tokens` tokens.
pub(super) fn listed(
    used: &[&TensorInfo],
    matrix: &Loaded<Slice<'_>>,
    scans: &Scans<'_>,
    min_tokens: i64,
) -> Vec<LayerExperts> {
    // By layer, then by what is to say, so that weights which see the same tokens share a row.
    let mut rows: BTreeMap<(u32, Vec<usize>, Vec<FewTokens>), LayerExperts> = BTreeMap::new();
    for tensor in used.iter().filter(|tensor| is_routed(tensor) && matrix.entries.contains_key(&tensor.name)) {
        let (Some(layer), Some(scan)) = (tensor.layer(), scans.of(&tensor.name).filter(|scan| scan.fits)) else {
            continue;
        };
        let (unseen, few) = (scan.unseen().collect::<Vec<_>>(), few(scan, min_tokens));
        if unseen.is_empty() && few.is_empty() {
            continue;
        }
        let row = rows.entry((layer, unseen.clone(), few.clone())).or_insert_with(|| LayerExperts {
            layer,
            weights: Vec::new(),
            experts: scan.matrices.len(),
            unseen,
            few,
        });
        row.weights.push(tensor.name.clone());
    }
    rows.into_values().collect()
}

fn few(scan: &EntryScan, min_tokens: i64) -> Vec<FewTokens> {
    let tokens = scan.matrices.iter().enumerate().filter_map(|(expert, m)| Some((expert, m.tokens?)));
    tokens.filter(|&(_, n)| n > 0 && n < min_tokens).map(|(expert, tokens)| FewTokens { expert, tokens }).collect()
}

/// Reports the experts as gaps, a sentence for all layers.
pub(super) fn report(findings: &mut Findings, layers: &[LayerExperts], min_tokens: i64) {
    let weights = |has: &dyn Fn(&LayerExperts) -> bool| -> Vec<String> {
        layers.iter().filter(|layer| has(layer)).flat_map(|layer| layer.weights.clone()).collect()
    };
    let unseen: usize = layers.iter().map(|layer| layer.unseen.len() * layer.weights.len()).sum();
    if unseen > 0 {
        let weights = weights(&|layer| !layer.unseen.is_empty());
        let text = format!("{unseen} experts in {} weights saw no token", weights.len());
        findings
            .add(Level::Gap, "unseen-experts", weights, text)
            .hint("collect more text (--stop-when-covered N), or fill them: merge --fill-experts layer");
    }
    let few: usize = layers.iter().map(|layer| layer.few.len() * layer.weights.len()).sum();
    if few > 0 {
        let weights = weights(&|layer| !layer.few.is_empty());
        let text = format!("{few} experts in {} weights saw fewer than {min_tokens} tokens", weights.len());
        findings
            .add(Level::Gap, "few-tokens", weights, text)
            .hint("--min-tokens sets the limit; merge --fill-experts layer blends such experts with their layer");
    }
}

/// Returns a list such as `0-3, 7`.
#[must_use]
pub(crate) fn ranges(indices: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let shown = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_experts_become_a_range() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7, 8");
        assert_eq!(ranges(&[]), "");
    }
}
