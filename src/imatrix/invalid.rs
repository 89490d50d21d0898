//! Sums that no run leaves: not finite, or of squares and below zero.

use std::fmt;

use super::{Entry, Loaded, Numbers, Values};

/// Numbers read at once.
const BLOCK: usize = 1 << 12;

/// A number of an entry that is no sum of activations.
#[derive(Clone, Debug, PartialEq)]
pub struct Invalid {
    /// The weight.
    pub weight: String,
    /// `in_sum2` or `in_sum`.
    pub part: &'static str,
    /// The matrix, of a weight that has several.
    pub matrix: usize,
    /// The channel.
    pub channel: usize,
    /// The number.
    pub value: f32,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weight, part, matrix, channel, value } = self;
        let expected = if *part == "in_sum" { "a finite number" } else { "a finite number from 0 on" };
        write!(f, "{part} of {weight} has {value} at channel {channel}")?;
        if *matrix > 0 {
            write!(f, " of matrix {matrix}")?;
        }
        write!(f, ", expected {expected}")
    }
}

impl<V: Values> Loaded<V> {
    /// The first invalid number of each entry that has one. Reads all numbers.
    #[must_use]
    pub fn invalid(&self) -> Vec<Invalid> {
        self.entries.iter().filter_map(|(weight, entry)| entry.invalid(weight)).collect()
    }
}

impl<V: Values> Entry<V> {
    fn invalid(&self, weight: &str) -> Option<Invalid> {
        let squares = first(&self.sum2.numbers(), |x| x.is_finite() && x >= 0.0).map(|found| ("in_sum2", found));
        let sums = || Some(("in_sum", first(&self.sum.as_ref()?.numbers(), f32::is_finite)?));
        let (part, (at, value)) = squares.or_else(sums)?;
        let row = self.row_len().filter(|&row| row > 0).unwrap_or(self.sum2.len()).max(1);
        Some(Invalid { weight: weight.to_owned(), part, matrix: at / row, channel: at % row, value })
    }
}

/// The first number that is not valid, and its place.
fn first(numbers: &Numbers<'_>, is_valid: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    let mut block = [0.0; BLOCK];
    (0..Values::len(numbers)).step_by(BLOCK).find_map(|from| {
        let part = &mut block[..BLOCK.min(Values::len(numbers) - from)];
        numbers.read(from, part);
        let at = part.iter().position(|&x| !is_valid(x))?;
        Some((from + at, part[at]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(sum2: Vec<f32>, sum: Option<Vec<f32>>) -> Loaded {
        let entry = Entry { sum2, sum, counts: vec![1, 1] };
        Loaded { entries: [("w".to_owned(), entry)].into(), ..Loaded::default() }
    }

    #[test]
    fn each_kind_of_invalid_number_is_found_at_its_place() {
        let n = 2 * BLOCK;
        let ones = || vec![1.0; 2 * n];
        assert_eq!(loaded(ones(), Some(vec![-1.0; 2 * n])).invalid(), []);
        for (at, value) in [(0, f32::NAN), (BLOCK, f32::INFINITY), (n + 3, -1.0), (2 * n - 1, f32::NEG_INFINITY)] {
            let mut sum2 = ones();
            sum2[at] = value;
            let found = loaded(sum2, None).invalid();
            let [Invalid { part: "in_sum2", matrix, channel, .. }] = found[..] else { panic!("{found:?}") };
            assert_eq!((matrix, channel), (at / n, at % n));
        }
        let mut sum = ones();
        sum[n + 2] = f32::NAN;
        let found = loaded(ones(), Some(sum)).invalid();
        assert_eq!(found[0].to_string(), "in_sum of w has NaN at channel 2 of matrix 1, expected a finite number");
    }
}
