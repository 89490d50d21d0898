//! Which part of a model a weight belongs to, by its name.

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

/// The weights that a term is computed with.
#[derive(Debug, Default)]
pub(super) struct Cone {
    layer: Option<u32>,
    attention: bool,
    dense: bool,
    shared: bool,
    routed: bool,
}

impl Cone {
    pub(super) fn add(&mut self, name: &str) {
        let Some(layer) = layer(name) else { return };
        self.layer = self.layer.max(Some(layer));
        let kind = name.splitn(3, '.').nth(2).unwrap_or_default();
        if kind.contains("norm") {
            // One for both at times, and named after its place rather than what it belongs to.
        } else if kind.contains("_shexp") {
            self.shared = true;
        } else if kind.contains("exps") || kind.starts_with("exp_probs") || kind.starts_with("ffn_gate_inp") {
            self.routed = true;
        } else if kind.starts_with("ffn_") || kind.starts_with("channel_mix") {
            self.dense = true;
        } else {
            self.attention = true;
        }
    }

    /// Whether more than one part of a model is in it.
    pub(super) fn is_mixed(&self) -> bool {
        [self.attention, self.dense, self.shared, self.routed].iter().filter(|&&has| has).count() > 1
    }

    pub(super) fn label(&self) -> (Option<u32>, Class) {
        let class = match (self.attention, self.dense, self.shared, self.routed) {
            (true, false, false, false) => Class::Attention,
            (false, false, true, false) => Class::SharedExperts,
            (false, false, false, true) => Class::RoutedExperts,
            (false, true, _, _) | (false, _, true, true) => Class::FeedForward,
            _ => Class::Other,
        };
        (self.layer, class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(names: &[&str]) -> (Option<u32>, Class) {
        let mut cone = Cone::default();
        names.iter().for_each(|name| cone.add(name));
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
