//! Weights that must have the same type, because llama.cpp fuses their products.

use std::collections::BTreeMap;

/// Groups weights by name. Each group has the indices of its members; most have one.
///
/// llama.cpp computes `ffn_gate` and `ffn_up` of a layer, their experts included, in one kernel if both have the same
/// type.
pub(super) fn fused<'a>(names: impl Iterator<Item = (usize, &'a str)>) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, name) in names {
        groups.entry(name.replacen(".ffn_up", ".ffn_gate", 1)).or_default().push(i);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_and_up_of_a_layer_are_one_group() {
        let names = [
            "blk.0.ffn_down.weight",
            "blk.0.ffn_gate.weight",
            "blk.0.ffn_up.weight",
            "blk.0.ffn_up_exps.weight",
            "blk.0.ffn_gate_exps.weight",
            "blk.1.ffn_up.weight",
            "blk.10.ffn_gate.weight",
        ];
        let groups = fused(names.iter().copied().enumerate());
        assert_eq!(groups, [vec![0], vec![1, 2], vec![3, 4], vec![5], vec![6]]);
    }
}
