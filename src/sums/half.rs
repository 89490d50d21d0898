/// Sums of squares over the even half of a text's batches. The odd half is the rest of all sums.
///
/// f64 adds and subtracts f32 sums without loss of a digit that matters: after `n` batches the half is exact to
/// `n * 2^-52` of all sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Half {
    /// Sum of squared activations per column and matrix, as long as [`Sums::sum2`](super::Sums::sum2). Empty: no batch so far.
    pub sum2: Vec<f64>,
    /// Number of rows, as in [`Sums::counts`](super::Sums::counts).
    pub counts: Vec<i64>,
}

impl Half {
    /// Creates the half of sums that no even batch has added to.
    pub(crate) fn zeros(values: usize, counts: usize) -> Self {
        Self { sum2: vec![0.0; values], counts: vec![0; counts] }
    }

    /// Adds sums of squares and counts, or subtracts them.
    pub(crate) fn change(&mut self, by: Change, sum2: impl ExactSizeIterator<Item = f64>, counts: &[i64]) {
        let (sign, one) = match by {
            Change::Add => (1.0, 1),
            Change::Subtract => (-1.0, -1),
        };
        if self.sum2.is_empty() {
            *self = Self::zeros(sum2.len(), counts.len());
        }
        for (to, value) in self.sum2.iter_mut().zip(sum2) {
            *to += sign * value;
        }
        for (to, &count) in self.counts.iter_mut().zip(counts) {
            *to += one * count;
        }
    }

    /// Adds the half of another part of the text; `None` if the lengths differ or a count overflows.
    pub(crate) fn merged(mut self, other: &Self) -> Option<Self> {
        if (self.sum2.len(), self.counts.len()) != (other.sum2.len(), other.counts.len()) {
            return None;
        }
        for (to, &from) in self.sum2.iter_mut().zip(&other.sum2) {
            *to += from;
        }
        for (to, &from) in self.counts.iter_mut().zip(&other.counts) {
            *to = to.checked_add(from)?;
        }
        Some(self)
    }

    /// Returns true if it can be the half of sums of `values` values with these counts.
    pub(crate) fn fits(&self, values: usize, counts: &[i64]) -> bool {
        self.sum2.len() == values
            && self.sum2.iter().all(|value| value.is_finite())
            && self.counts.len() == counts.len()
            && self.counts.iter().zip(counts).all(|(half, all)| (0..=*all).contains(half))
    }
}

/// What [`Half::change`] does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Add,
    Subtract,
}

#[cfg(test)]
impl super::Sums {
    /// Returns the sums of squares and the counts of the odd half, given the even half.
    pub(crate) fn odd_half(&self, even: &Half) -> Half {
        let mut odd = Half::default();
        odd.change(Change::Add, self.sum2.iter().map(|&value| f64::from(value)), &self.counts);
        odd.change(Change::Subtract, even.sum2.iter().copied(), &even.counts);
        odd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_two_parts_add_up_and_halves_of_other_sizes_do_not() {
        let half = |sum2: &[f64], counts: &[i64]| Half { sum2: sum2.to_vec(), counts: counts.to_vec() };
        let one = half(&[1.0, 2.0], &[3]);
        assert_eq!(one.clone().merged(&half(&[0.5, 0.25], &[1])), Some(half(&[1.5, 2.25], &[4])));
        assert_eq!(one.clone().merged(&half(&[1.0], &[1])), None);
        assert_eq!(one.merged(&half(&[1.0, 1.0], &[i64::MAX])), None);
    }

    #[test]
    fn a_half_has_at_most_the_rows_of_all() {
        let half = |count| Half { sum2: vec![1.0, 2.0], counts: vec![count] };
        assert!(half(0).fits(2, &[5]) && half(5).fits(2, &[5]));
        assert!(
            !half(6).fits(2, &[5]) && !half(-1).fits(2, &[5]) && !half(1).fits(3, &[5]) && !half(1).fits(2, &[5, 5])
        );
        assert!(!Half { sum2: vec![f64::NAN, 0.0], counts: vec![1] }.fits(2, &[5]));
    }
}
