//! Finds the part of a model that a weight belongs to, by its name.

use std::collections::BTreeSet;

use super::file::Part;

/// Largest plausible number of terms of a residual stream: several per layer.
pub(super) const MAX_TERMS: usize = 1 << 14;

/// The class of a term of the residual stream; shared and routed experts are separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Embedding,
    Attention,
    /// A feed-forward network without experts, or with both kinds of experts in one term.
    FeedForward,
    SharedExperts,
    RoutedExperts,
    Other,
}

impl Class {
    /// Returns the part that counts in the sum.
    pub(super) fn part(self) -> Part {
        match self {
            Class::Embedding => Part::Embedding,
            Class::Attention => Part::Attention,
            Class::FeedForward | Class::SharedExperts | Class::RoutedExperts => Part::FeedForward,
            Class::Other => Part::Other,
        }
    }

    /// Returns the detail of that part, for experts.
    pub(super) fn detail(self) -> Option<Part> {
        match self {
            Class::SharedExperts => Some(Part::SharedExperts),
            Class::RoutedExperts => Some(Part::RoutedExperts),
            _ => None,
        }
    }
}

/// Returns the layer of a weight: 3 for `blk.3.attn_q.weight`.
pub(super) fn layer(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// The kind of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WeightKind {
    Attention,
    /// A feed-forward network without experts.
    Dense,
    Shared,
    Routed,
    /// The input of a layer besides the stream: an embedding of the token for this layer (Gemma 4).
    PerLayerInput,
}

/// The weights that a term is computed from.
#[derive(Debug, Default)]
pub(super) struct TermWeights {
    layer: Option<u32>,
    kinds: BTreeSet<WeightKind>,
}

impl TermWeights {
    pub(super) fn add(&mut self, name: &str) {
        let Some(layer) = layer(name) else { return };
        self.layer = self.layer.max(Some(layer));
        let weight = name.splitn(3, '.').nth(2).unwrap_or_default();
        let kind = if weight.contains("norm") {
            return; // its name says where it is, not which part it belongs to, and one may serve both
        } else if weight.starts_with("attn_") {
            WeightKind::Attention // also attention with experts (attn_v_exps)
        } else if ["inp_gate.", "proj.", "ple_"].iter().any(|start| weight.starts_with(start)) {
            WeightKind::PerLayerInput
        } else if weight.contains("_shexp") {
            WeightKind::Shared
        } else if weight.contains("exps") || weight.starts_with("exp_probs") || weight.starts_with("ffn_gate_inp") {
            WeightKind::Routed
        } else if ["ffn_", "ffn.", "channel_mix"].iter().any(|start| weight.starts_with(start)) {
            WeightKind::Dense // MPT's activation scales are called ffn.act
        } else {
            WeightKind::Attention
        };
        self.kinds.insert(kind);
    }

    /// Returns true if the weights belong to more than one kind.
    pub(super) fn is_mixed(&self) -> bool {
        self.kinds.len() > 1
    }

    /// Returns the layer and the class of the term.
    pub(super) fn label(&self) -> (Option<u32>, Class) {
        let kinds: Vec<WeightKind> = self.kinds.iter().copied().collect();
        let class = match kinds[..] {
            [WeightKind::Attention] => Class::Attention,
            [WeightKind::Shared] => Class::SharedExperts,
            [WeightKind::Routed] => Class::RoutedExperts,
            [] | [WeightKind::Attention, ..] | [.., WeightKind::PerLayerInput] => Class::Other,
            _ => Class::FeedForward,
        };
        (self.layer, class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(names: &[&str]) -> (Option<u32>, Class) {
        let mut weights = TermWeights::default();
        for name in names {
            weights.add(name);
        }
        weights.label()
    }

    #[test]
    fn the_class_of_a_term_follows_from_its_weights() {
        for (names, expected) in [
            (&["blk.3.attn_norm.weight", "blk.3.attn_q.weight"][..], (Some(3), Class::Attention)),
            (&["blk.3.ffn_up.weight", "blk.3.ffn_norm.weight"], (Some(3), Class::FeedForward)),
            (&["blk.0.time_mix_value.weight", "blk.2.time_mix_key.weight"], (Some(2), Class::Attention)),
            (&["blk.1.ffn_gate_inp.weight", "blk.1.ffn_down_exps.weight"], (Some(1), Class::RoutedExperts)),
            (&["blk.1.ffn_gate_inp_shexp.weight", "blk.1.ffn_up_shexp.weight"], (Some(1), Class::SharedExperts)),
            (&["blk.1.ffn_up_shexp.weight", "blk.1.ffn_up_exps.weight"], (Some(1), Class::FeedForward)),
            (&["blk.1.ffn_up.weight", "blk.1.attn_q.weight"], (Some(1), Class::Other)),
            (&["cache_k_l0"], (None, Class::Other)),
            // MPT with activation scales, attention with experts, Gemma 4's embedding per layer.
            (&["blk.2.ffn_up.weight", "blk.2.ffn.act.scales"], (Some(2), Class::FeedForward)),
            (&["blk.2.attn_v_exps.weight", "blk.2.attn_q.weight"], (Some(2), Class::Attention)),
            (&["blk.2.inp_gate.weight", "blk.2.proj.weight"], (Some(2), Class::Other)),
        ] {
            assert_eq!(label(names), expected, "{names:?}");
        }
    }
}
