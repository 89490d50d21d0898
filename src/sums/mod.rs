//! The sums of one weight's inputs: per column Σ x² and Σ x, and the number of rows.
//!
//! [`Accumulate`] selects how they are added up. Sums in a device's memory implement `OnDevice`.

mod accumulate;
mod device;
mod half;

pub use accumulate::Accumulate;
pub(crate) use device::OnDevice;
#[cfg(any(test, feature = "llama"))]
pub(crate) use device::Partial;
pub(crate) use half::Change;
pub use half::Half;

/// The sums collected for one weight.
///
/// A weight has one or more matrices of `n` columns: one for a plain weight, one per head or expert for a 3-D weight. The sums
/// are stored matrix after matrix, `n` numbers each. `Sums` owns them as f32; with another `V` they are f64 or borrowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums<V = Vec<f32>> {
    /// Sum of squared activations over all rows, per column. `matrices * n` long.
    pub sum2: V,
    /// Sum of activations over all rows, per column. As long as `sum2`; `None` if part of the data came from a legacy file,
    /// which has no such sums.
    pub sum: Option<V>,
    /// Number of rows seen: one count for the whole weight, or one per matrix. Never negative.
    pub counts: Vec<i64>,
}

impl Sums {
    /// Returns the sums of activations; empty if there are none.
    #[must_use]
    pub fn activations(&self) -> &[f32] {
        self.sum.as_deref().unwrap_or_default()
    }

    /// Returns the same sums in f64.
    pub(crate) fn widened(&self) -> Sums<Vec<f64>> {
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect();
        Sums { sum2: wide(&self.sum2), sum: self.sum.as_deref().map(wide), counts: self.counts.clone() }
    }
}

impl Sums<Vec<f64>> {
    /// Returns the sums rounded to f32.
    pub(crate) fn rounded(&self) -> Sums {
        let round = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
        Sums { sum2: round(&self.sum2), sum: self.sum.as_deref().map(round), counts: self.counts.clone() }
    }
}

impl<T: Copy + Default> Sums<Vec<T>> {
    /// Creates zeros for both kinds of sums.
    pub(crate) fn zeros(values: usize, counts: usize) -> Self {
        let zeros = vec![T::default(); values];
        Self { sum2: zeros.clone(), sum: Some(zeros), counts: vec![0; counts] }
    }
}
