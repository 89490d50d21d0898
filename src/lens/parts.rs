//! Which part of a model a weight belongs to, by its name.

use std::collections::BTreeSet;

use super::file::Part;

/// Terms of a residual stream that are believed: some a layer.
pub(super) const MAX_TERMS: usize = 1 << 14;

/// What a term of the residual stream is, experts told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Embedding,
    Attention,
    /// A feed-forward network that is not made of experts, or of more than one kind of them.
    FeedForward,
    SharedExperts,
    RoutedExperts,
    Other,
}

impl Class {
    /// The part that counts in the sum.
    pub(super) fn part(self) -> Part {
        match self {
            Class::Embedding => Part::Embedding,
            Class::Attention => Part::Attention,
            Class::FeedForward | Class::SharedExperts | Class::RoutedExperts => Part::FeedForward,
            Class::Other => Part::Other,
        }
    }

    /// The part of that part, for experts.
    pub(super) fn detail(self) -> Option<Part> {
        match self {
            Class::SharedExperts => Some(Part::SharedExperts),
            Class::RoutedExperts => Some(Part::RoutedExperts),
            _ => None,
        }
    }
}

/// The layer of a weight: 3 of `blk.3.attn_q.weight`.
pub(super) fn layer(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// A kind of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Attention,
    /// A feed-forward network without experts.
    Dense,
    Shared,
    Routed,
}

/// The weights that a term is computed with.
#[derive(Debug, Default)]
pub(super) struct Cone {
    layer: Option<u32>,
    kinds: BTreeSet<Kind>,
}

impl Cone {
    pub(super) fn add(&mut self, name: &str) {
        let Some(layer) = layer(name) else { return };
        self.layer = self.layer.max(Some(layer));
        let weight = name.splitn(3, '.').nth(2).unwrap_or_default();
        let kind = if weight.contains("norm") {
            return; // one for both at times, and named after its place rather than what it belongs to
        } else if weight.contains("_shexp") {
            Kind::Shared
        } else if weight.contains("exps") || weight.starts_with("exp_probs") || weight.starts_with("ffn_gate_inp") {
            Kind::Routed
        } else if weight.starts_with("ffn_") || weight.starts_with("channel_mix") {
            Kind::Dense
        } else {
            Kind::Attention
        };
        self.kinds.insert(kind);
    }

    /// Whether more than one part of a model is in it.
    pub(super) fn is_mixed(&self) -> bool {
        self.kinds.len() > 1
    }

    pub(super) fn label(&self) -> (Option<u32>, Class) {
        let kinds: Vec<Kind> = self.kinds.iter().copied().collect();
        let class = match kinds[..] {
            [Kind::Attention] => Class::Attention,
            [Kind::Shared] => Class::SharedExperts,
            [Kind::Routed] => Class::RoutedExperts,
            [] | [Kind::Attention, ..] => Class::Other,
            _ => Class::FeedForward,
        };
        (self.layer, class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(names: &[&str]) -> (Option<u32>, Class) {
        let mut cone = Cone::default();
        for name in names {
            cone.add(name);
        }
        cone.label()
    }

    #[test]
    fn parts_are_known_by_their_weights() {
        for (names, expected) in [
            (&["blk.3.attn_norm.weight", "blk.3.attn_q.weight"][..], (Some(3), Class::Attention)),
            (&["blk.3.ffn_up.weight", "blk.3.ffn_norm.weight"], (Some(3), Class::FeedForward)),
            (&["blk.0.time_mix_value.weight", "blk.2.time_mix_key.weight"], (Some(2), Class::Attention)),
            (&["blk.1.ffn_gate_inp.weight", "blk.1.ffn_down_exps.weight"], (Some(1), Class::RoutedExperts)),
            (&["blk.1.ffn_gate_inp_shexp.weight", "blk.1.ffn_up_shexp.weight"], (Some(1), Class::SharedExperts)),
            (&["blk.1.ffn_up_shexp.weight", "blk.1.ffn_up_exps.weight"], (Some(1), Class::FeedForward)),
            (&["blk.1.ffn_up.weight", "blk.1.attn_q.weight"], (Some(1), Class::Other)),
            (&["cache_k_l0"], (None, Class::Other)),
        ] {
            assert_eq!(label(names), expected, "{names:?}");
        }
    }
}
