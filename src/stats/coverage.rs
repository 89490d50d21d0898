//! The coverage of a weight's experts.

use crate::imatrix::Entry;

/// Fraction of an equal share of the rows below which an expert counts as rarely seen.
pub(crate) const RARE: f64 = 0.1;

/// The distribution of rows over the experts of one weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertCoverage {
    /// Number of experts.
    pub experts: usize,
    /// Number of experts without rows.
    pub unseen: usize,
    /// Number of experts that have rows, but fewer than a tenth of an equal share.
    pub rare: usize,
    /// Smallest number of rows of an expert.
    pub min: i64,
    /// Largest number of rows of an expert.
    pub max: i64,
    /// Number of rows of all experts.
    pub total: i64,
    /// Entropy of the rows as a distribution over the experts, divided by the entropy of equal rows: 1 if all experts
    /// have the same number, 0 if one expert has all. NaN without rows.
    pub balance: f64,
}

impl ExpertCoverage {
    /// Computes the coverage; `None` unless the entry has a count per matrix for several matrices.
    #[must_use]
    pub(crate) fn new(entry: &Entry) -> Option<Self> {
        let counts = &entry.counts;
        if counts.len() < 2 {
            return None;
        }
        let total: i64 = counts.iter().fold(0, |sum, &c| sum.saturating_add(c.max(0)));
        let equal = total as f64 / counts.len() as f64;
        let entropy: f64 = counts
            .iter()
            .filter(|&&c| c > 0)
            .map(|&c| {
                let p = c as f64 / total as f64;
                -p * p.ln()
            })
            .sum();
        Some(Self {
            experts: counts.len(),
            unseen: counts.iter().filter(|&&c| c <= 0).count(),
            rare: counts.iter().filter(|&&c| c > 0 && (c as f64) < RARE * equal).count(),
            min: counts.iter().copied().min().unwrap_or(0),
            max: counts.iter().copied().max().unwrap_or(0),
            total,
            // The entropy of one expert is -0, and rounding may push the entropy of equal ones above 1.
            balance: if total > 0 { (entropy / (counts.len() as f64).ln()).clamp(0.0, 1.0) + 0.0 } else { f64::NAN },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(counts: &[i64]) -> Option<ExpertCoverage> {
        ExpertCoverage::new(&Entry { sum2: vec![0.0; counts.len()], sum: None, counts: counts.to_vec() })
    }

    #[test]
    fn shares_and_balance_are_those_worked_out_by_hand() {
        let c = coverage(&[0, 9, 1, 10]).unwrap(); // an equal share is 5
        assert_eq!((c.experts, c.unseen, c.rare, c.min, c.max, c.total), (4, 1, 0, 0, 10, 20));
        let h = -(0.45 * 0.45_f64.ln() + 0.05 * 0.05_f64.ln() + 0.5 * 0.5_f64.ln());
        assert!((c.balance - h / 4.0_f64.ln()).abs() < 1e-12);
        assert_eq!(coverage(&[1, 99, 100]).map(|c| c.rare), Some(1));
        assert_eq!(coverage(&[3, 3]).map(|c| c.balance), Some(1.0));
        assert_eq!(coverage(&[7, 0]).map(|c| c.balance.to_bits()), Some(0.0_f64.to_bits()));
        assert!(coverage(&[0, 0]).is_some_and(|c| c.balance.is_nan() && c.unseen == 2 && c.rare == 0));
        assert_eq!(coverage(&[5]), None);
    }
}
