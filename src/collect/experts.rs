//! Distribution of the tokens so far over the experts of a model.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Counts over all experts of a model. Each layer has its own experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Number of experts.
    pub total: u64,
    /// Number of experts that no token was routed to.
    pub unseen: u64,
    /// Lowest number of tokens routed to an expert.
    pub least: u64,
}

impl Experts {
    /// Counts the experts, given weights' names and row counts. Weights of one layer with the same number of matrices
    /// have the same experts; if their counts differ, the most `unseen` and the `least` tokens apply. `None` if no
    /// weight has a count per matrix.
    pub(super) fn new<'c>(weights: impl Iterator<Item = (&'c str, Cow<'c, [i64]>)>) -> Option<Self> {
        let mut layers: BTreeMap<(&str, usize), (u64, u64)> = BTreeMap::new();
        for (name, counts) in weights.filter(|(_, counts)| counts.len() > 1) {
            let layer = name.match_indices('.').nth(1).map_or(name, |(end, _)| &name[..end]);
            let unseen = counts.iter().filter(|&&count| count <= 0).count() as u64;
            let least = counts.iter().map(|&count| u64::try_from(count).unwrap_or(0)).min().unwrap_or(0);
            let seen = layers.entry((layer, counts.len())).or_insert((unseen, least));
            *seen = (seen.0.max(unseen), seen.1.min(least));
        }
        let least = layers.values().map(|(_, least)| *least).min()?;
        Some(Self {
            total: layers.keys().map(|(_, experts)| *experts as u64).sum(),
            unseen: layers.values().map(|(unseen, _)| unseen).sum(),
            least,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borrowed<'c>(weights: &'c [(&'c str, &'c [i64])]) -> impl Iterator<Item = (&'c str, Cow<'c, [i64]>)> {
        weights.iter().map(|&(name, counts)| (name, Cow::Borrowed(counts)))
    }

    #[test]
    fn experts_are_counted_once_per_layer() {
        let weights: [(&str, &[i64]); 4] = [
            ("blk.0.ffn_down_exps.weight", &[4, 0, 2]),
            ("blk.0.ffn_up_exps.weight", &[4, 0, 0]),
            ("blk.0.attn_q.weight", &[6]),
            ("blk.10.ffn_up_exps.weight", &[1, 2, 3]),
        ];
        assert_eq!(Experts::new(borrowed(&weights)), Some(Experts { total: 6, unseen: 2, least: 0 }));
        assert_eq!(Experts::new(borrowed(&weights[3..])), Some(Experts { total: 3, unseen: 0, least: 1 }));
        assert_eq!(Experts::new(borrowed(&weights[2..3])), None);
    }
}
