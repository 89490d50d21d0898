//! The energies of a weight's columns by rank, at few enough points to plot.

use super::columns::columns;
use crate::imatrix::Entry;

/// Energies at ranks evenly spaced on a logarithmic axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spectrum {
    /// Number of columns with finite data.
    pub columns: usize,
    /// Ranks from 1 (the most energy) to `columns`, ascending.
    pub ranks: Vec<usize>,
    /// Energy at each rank, divided by the mean energy.
    pub relative: Vec<f64>,
    /// Share of the total energy in the columns up to each rank.
    pub cumulative: Vec<f64>,
}

impl Spectrum {
    /// Computes at most `points` points; none if no column has energy.
    #[must_use]
    pub(crate) fn new(entry: &Entry, points: usize) -> Self {
        let mut energies: Vec<f32> =
            columns(entry).filter(super::columns::Averages::is_finite).map(|c| c.energy as f32).collect();
        energies.sort_unstable_by(|a, b| b.total_cmp(a));
        let total: f64 = energies.iter().map(|&e| f64::from(e)).sum();
        let n = energies.len();
        if n == 0 || total <= 0.0 {
            return Self::default();
        }
        let mut out = Self { columns: n, ..Self::default() };
        let mean = total / n as f64;
        let (mut sum, mut done) = (0.0, 0);
        for rank in ranks(n, points) {
            sum += energies.get(done..rank).unwrap_or_default().iter().map(|&e| f64::from(e)).sum::<f64>();
            done = rank;
            out.ranks.push(rank);
            out.relative.push(energies.get(rank - 1).map_or(f64::NAN, |&e| f64::from(e) / mean));
            out.cumulative.push(sum / total);
        }
        out
    }
}

/// Returns at most `points` ranks from `1..=n`, always including both ends.
fn ranks(n: usize, points: usize) -> Vec<usize> {
    let steps = points.max(2) - 1;
    let mut ranks: Vec<usize> =
        (0..=steps).map(|i| ((n as f64).powf(i as f64 / steps as f64).round() as usize).clamp(1, n)).collect();
    ranks.dedup();
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energies_by_rank_are_those_worked_out_by_hand() {
        let entry = Entry { sum2: vec![2.0, 12.0, f32::NAN, 4.0, 6.0], sum: None, counts: vec![2] };
        let s = Spectrum::new(&entry, 8);
        assert_eq!(s.ranks, [1, 2, 3, 4]);
        assert_eq!(s.relative, [2.0, 1.0, 4.0 / 6.0, 2.0 / 6.0]);
        assert_eq!(s.cumulative, [0.5, 0.75, 22.0 / 24.0, 1.0]);
        assert_eq!(Spectrum::new(&Entry { sum2: vec![0.0], sum: None, counts: vec![1] }, 8), Spectrum::default());
    }

    #[test]
    fn ranks_include_both_ends() {
        assert_eq!(ranks(1, 9), [1]);
        let many = ranks(1 << 20, 64);
        assert_eq!((many.first(), many.last()), (Some(&1), Some(&(1 << 20))));
        assert!(many.len() <= 64 && many.is_sorted_by(|a, b| a < b));
    }
}
