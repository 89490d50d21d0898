//! Measured sensitivities, per weight or per group, and the figure of a group spread over its weights.

use std::collections::BTreeMap;

use super::sensitivity_file::{GroupMeasurement, SensitivityFile};

/// Rounds of fitting if groups overlap, such as layers and kinds.
const ROUNDS: usize = 100;

/// The sensitivities that were measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensitivities {
    /// Cost per expected squared error of each weight that was measured alone.
    pub weights: BTreeMap<String, f64>,
    /// Groups of weights that were measured together.
    pub groups: Vec<GroupMeasurement>,
}

impl Sensitivities {
    /// Adds the measurements of a file.
    pub fn add(&mut self, file: SensitivityFile) {
        self.weights.extend(file.weights.into_iter().map(|(name, measured)| (name, measured.sensitivity())));
        self.groups.extend(file.groups.into_values());
    }

    /// Combines measurements with estimates. A weight that was measured alone has its own figure. In a group the estimates of all
    /// its weights are multiplied by one factor, so that they predict the group's divergence. The other weights have their
    /// estimates times the median of these ratios.
    pub(super) fn combined(&self, names: &[&str], estimates: &[f64]) -> Vec<f64> {
        let spread = self.spread(names, estimates);
        let measured: Vec<Option<f64>> =
            names.iter().zip(&spread).map(|(name, spread)| self.weights.get(*name).copied().or(*spread)).collect();
        let pairs = measured.iter().zip(estimates).filter_map(|(m, &e)| Some((m.as_ref()?, e)));
        let mut ratios: Vec<f64> = pairs.filter(|(m, e)| **m > 0.0 && *e > 0.0).map(|(m, e)| m / e).collect();
        ratios.sort_by(f64::total_cmp);
        let scale = ratios.get(ratios.len() / 2).copied().unwrap_or(1.0);
        measured.iter().zip(estimates).map(|(measured, estimate)| measured.unwrap_or(estimate * scale)).collect()
    }

    /// Returns the sensitivities of weights in groups. Overlapping groups are fitted in turn; where they contradict each other, the
    /// last one holds.
    fn spread(&self, names: &[&str], estimates: &[f64]) -> Vec<Option<f64>> {
        let places: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (*name, i)).collect();
        let members = |group: &GroupMeasurement| -> Vec<(usize, f64)> {
            let member = |(name, weight): (&String, &super::sensitivity_file::GroupWeight)| {
                Some((*places.get(name.as_str())?, f64::from(weight.error)))
            };
            group.weights.iter().filter_map(member).collect()
        };
        let groups: Vec<(f64, Vec<(usize, f64)>)> =
            self.groups.iter().map(|group| (f64::from(group.divergence).max(0.0), members(group))).collect();
        let mut spread: Vec<Option<f64>> = vec![None; names.len()];
        for &(i, _) in groups.iter().flat_map(|(_, members)| members) {
            spread[i] = Some(estimates[i]);
        }
        for _ in 0..ROUNDS {
            let mut has_changed = false;
            for (divergence, members) in &groups {
                let predicted: f64 = members.iter().map(|&(i, error)| spread[i].unwrap_or(0.0) * error).sum();
                if predicted <= 0.0 {
                    continue;
                }
                let factor = divergence / predicted;
                has_changed |= (factor - 1.0).abs() > 1e-9;
                for &(i, _) in members {
                    spread[i] = spread[i].map(|s| s * factor);
                }
            }
            if !has_changed {
                break;
            }
        }
        spread
    }
}

#[cfg(test)]
mod tests {
    use super::super::sensitivity_file::GroupWeight;
    use super::*;

    fn group(divergence: f32, weights: &[(&str, f32)]) -> GroupMeasurement {
        let weight = |&(name, error): &(&str, f32)| (name.to_owned(), GroupWeight { dtype: "q3_K".to_owned(), error });
        GroupMeasurement { divergence, weights: weights.iter().map(weight).collect() }
    }

    fn close(found: &[f64], expected: &[f64]) {
        let same = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6 * b.abs().max(1e-3));
        assert!(same && found.len() == expected.len(), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn estimates_are_scaled_to_what_was_measured() {
        let names = ["a", "b", "c", "d"];
        let weights = [("a", 10.0), ("b", 30.0), ("c", 20.0)].map(|(n, s)| (n.to_owned(), s)).into();
        let measured = Sensitivities { weights, groups: Vec::new() };
        close(&measured.combined(&names, &[1.0, 2.0, 5.0, 4.0]), &[10.0, 30.0, 20.0, 40.0]);
        close(&Sensitivities::default().combined(&names, &[1.0, 2.0, 5.0, 4.0]), &[1.0, 2.0, 5.0, 4.0]);
    }

    #[test]
    fn the_weights_of_a_group_share_its_divergence_by_their_estimates() {
        let names = ["a", "b", "c", "d"];
        let groups = vec![group(12.0, &[("a", 1.0), ("b", 2.0)]), group(-0.5, &[("c", 1.0), ("unknown", 1.0)])];
        let measured = Sensitivities { weights: BTreeMap::new(), groups };
        // 1 * 1 + 2.5 * 2 = 6 were predicted, 12 were measured: twice as much. Noise below zero is 0.
        close(&measured.combined(&names, &[1.0, 2.5, 3.0, 7.0]), &[2.0, 5.0, 0.0, 14.0]);
        // A weight that was measured alone keeps its figure.
        let alone = Sensitivities { weights: [("b".to_owned(), 4.0)].into(), ..measured };
        close(&alone.combined(&names, &[1.0, 2.5, 3.0, 7.0])[..3], &[2.0, 4.0, 0.0]);
    }

    #[test]
    fn layers_and_kinds_together_are_fitted_to_both() {
        // Truth: layers times kinds. The estimates know neither.
        let (layers, kinds, errors) = ([1.0, 10.0], [2.0, 6.0], [[1.0, 0.5], [0.25, 2.0]]);
        let names = ["00", "01", "10", "11"];
        let truth = |l: usize, k: usize| layers[l] * kinds[k];
        let cell = |l: usize, k: usize| (names[2 * l + k], errors[l][k] as f32);
        let cost = |l: usize, k: usize| truth(l, k) * errors[l][k];
        let by_layer = (0..2).map(|l| group((cost(l, 0) + cost(l, 1)) as f32, &[cell(l, 0), cell(l, 1)]));
        let by_kind = (0..2).map(|k| group((cost(0, k) + cost(1, k)) as f32, &[cell(0, k), cell(1, k)]));
        let measured = Sensitivities { weights: BTreeMap::new(), groups: by_layer.chain(by_kind).collect() };
        let found = measured.combined(&names, &[1.0; 4]);
        close(&found, &[truth(0, 0), truth(0, 1), truth(1, 0), truth(1, 1)]);
    }
}
