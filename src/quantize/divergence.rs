//! Compares a model's distributions with a reference's: llama-perplexity's numbers, from logits in memory.
//!
//! `llama-perplexity` keeps the reference's log-probabilities in 16 bits. This module rounds them in the same way, so
//! that the results are the same.

use crate::lens::base::{BaseRow, log_sum_exp};

/// Log-probabilities below this do not count.
const LOWEST: f32 = -16.0;

/// The comparison of two distributions after one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowScore {
    /// Negative log-likelihood of the next token, of the candidate and of the reference.
    pub nll: f32,
    /// Negative log-likelihood of the reference.
    pub nll_base: f32,
    /// KL divergence of the candidate from the reference.
    pub divergence: f64,
    /// Probability of the next token, less the reference's.
    pub difference: f32,
    /// True if both have the same most likely token.
    pub same_top: bool,
}

/// Compares a candidate's row of logits with the reference's; `next` is the token that follows. `None` if a length or
/// the token is wrong, or no logit is a number.
#[must_use]
pub fn compare(base: &BaseRow, logits: &[f32], next: usize) -> Option<RowScore> {
    if logits.len() != base.n_vocab() {
        return None;
    }
    let nll_base = -base.log_probability(next)?;
    let (mut max, mut top) = (f32::NEG_INFINITY, None);
    for (i, &logit) in logits.iter().enumerate() {
        if logit > max {
            (max, top) = (logit, Some(i));
        }
    }
    let log_sum = log_sum_exp(logits, max);
    let nll = max + log_sum - logits[next];
    let largest = max + log_sum;
    let (mut divergence, mut base_max, mut base_top) = (0.0, f32::NEG_INFINITY, None);
    for (i, (&logit, log_p)) in logits.iter().zip(base.log_probabilities()).enumerate() {
        if log_p > base_max {
            (base_max, base_top) = (log_p, Some(i));
        }
        if log_p > LOWEST {
            divergence += f64::from(log_p.exp() * (log_p - logit + largest));
        }
    }
    let difference = (-nll).exp() - (-nll_base).exp();
    top.map(|_| RowScore { nll, nll_base, divergence, difference, same_top: top == base_top })
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uncertain {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Uncertain {
    /// Returns the 95 % confidence interval: 1.96 standard errors to each side.
    #[must_use]
    pub fn interval(self) -> [f64; 2] {
        let half = 1.96 * self.error;
        [self.value - half, self.value + half]
    }
}

/// All comparisons of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divergence {
    count: usize,
    same_top: usize,
    nll: Sums,
    nll_base: Sums,
    both: f64,
    kld: Sums,
    difference: f64,
    /// Squares of the differences.
    squares: Sums,
    divergences: Vec<f32>,
    differences: Vec<f32>,
}

/// A sum of numbers and of their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    first: f64,
    second: f64,
}

impl Sums {
    fn mean(self, count: usize) -> Uncertain {
        if count < 1 {
            return Uncertain { value: 0.0, error: 0.0 };
        }
        let value = self.first / count as f64;
        let variance = self.second / count as f64 - value * value;
        let error = if variance > 0.0 && count > 10 { (variance / (count - 1) as f64).sqrt() } else { 0.0 };
        Uncertain { value, error }
    }
}

impl Divergence {
    /// Adds one comparison.
    pub fn add(&mut self, row: &RowScore) {
        // Squares of single precision numbers are single precision, as upstream computes them.
        let add = |sums: &mut Sums, x: f32| {
            sums.first += f64::from(x);
            sums.second += f64::from(x * x);
        };
        add(&mut self.nll, row.nll);
        add(&mut self.nll_base, row.nll_base);
        self.both += f64::from(row.nll * row.nll_base);
        self.kld.first += row.divergence;
        self.kld.second += row.divergence * row.divergence;
        self.difference += f64::from(row.difference);
        let square = f64::from(row.difference * row.difference);
        self.squares.first += square;
        self.squares.second += square * square;
        self.count += 1;
        self.same_top += usize::from(row.same_top);
        self.divergences.push(row.divergence as f32);
        self.differences.push(row.difference);
    }

    /// Adds the comparisons of another part of the text.
    pub fn append(&mut self, other: &Self) {
        self.count += other.count;
        self.same_top += other.same_top;
        self.both += other.both;
        self.difference += other.difference;
        let own = [&mut self.nll, &mut self.nll_base, &mut self.kld, &mut self.squares];
        for (sums, more) in own.into_iter().zip([other.nll, other.nll_base, other.kld, other.squares]) {
            sums.first += more.first;
            sums.second += more.second;
        }
        self.divergences.extend_from_slice(&other.divergences);
        self.differences.extend_from_slice(&other.differences);
    }

    /// Returns the number of comparisons.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns the mean negative log-likelihood of the candidate.
    #[must_use]
    pub fn nll(&self) -> Uncertain {
        self.nll.mean(self.count)
    }

    /// Returns the mean negative log-likelihood of the reference.
    #[must_use]
    pub fn nll_base(&self) -> Uncertain {
        self.nll_base.mean(self.count)
    }

    /// Returns the mean KL divergence.
    #[must_use]
    pub fn divergence(&self) -> Uncertain {
        self.kld.mean(self.count)
    }

    /// Returns the mean difference of probabilities.
    #[must_use]
    pub fn difference(&self) -> Uncertain {
        Sums { first: self.difference, second: self.squares.first }.mean(self.count)
    }

    /// Returns the root of the mean squared difference of probabilities.
    #[must_use]
    pub fn rms_difference(&self) -> Uncertain {
        let mean = self.squares.mean(self.count);
        let value = mean.value.sqrt();
        Uncertain { value, error: 0.5 / value * mean.error }
    }

    /// Returns the share of tokens with the same most likely next token.
    #[must_use]
    pub fn same_top(&self) -> Uncertain {
        let value = self.same_top as f64 / self.count as f64;
        Uncertain { value, error: (value * (1.0 - value) / (self.count as f64 - 1.0)).sqrt() }
    }

    /// Returns the covariance of both means of negative log-likelihoods.
    #[must_use]
    pub fn covariance(&self) -> f64 {
        if self.count < 10 {
            return 0.0;
        }
        let n = self.count as f64;
        (self.both / n - (self.nll.first / n) * (self.nll_base.first / n)) / (n - 1.0)
    }

    /// Returns the logarithm of the ratio of perplexities.
    #[must_use]
    pub fn log_ratio(&self) -> Uncertain {
        let (own, base) = (self.nll(), self.nll_base());
        let variance = own.error * own.error + base.error * base.error - 2.0 * self.covariance();
        Uncertain { value: own.value - base.value, error: variance.sqrt() }
    }

    /// Returns the divergences, smallest first.
    #[must_use]
    pub fn sorted_divergences(&self) -> Vec<f32> {
        sorted(&self.divergences)
    }

    /// Returns the differences of probabilities, smallest first.
    #[must_use]
    pub fn sorted_differences(&self) -> Vec<f32> {
        sorted(&self.differences)
    }
}

/// The statistics of a part of a text: a chunk, a document, or all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Number of comparisons.
    pub tokens: usize,
    /// Mean KL divergence.
    pub divergence: Uncertain,
    /// Median of the divergences.
    pub median: f32,
    /// Their 99th percentile.
    pub p99: f32,
    /// The largest.
    pub max: f32,
    /// Share of tokens with the same most likely next token.
    pub same_top: Uncertain,
    /// Root of the mean squared difference of probabilities.
    pub rms_difference: Uncertain,
    /// Logarithm of the ratio of perplexities.
    pub log_ratio: Uncertain,
    /// Mean negative log-likelihood of the candidate.
    pub nll: Uncertain,
    /// Mean negative log-likelihood of the reference.
    pub nll_base: Uncertain,
}

impl From<&Divergence> for Summary {
    fn from(all: &Divergence) -> Self {
        let sorted = all.sorted_divergences();
        Self {
            tokens: all.count(),
            divergence: all.divergence(),
            median: median(&sorted),
            p99: percentile(&sorted, 0.99),
            max: percentile(&sorted, 1.0),
            same_top: all.same_top(),
            rms_difference: all.rms_difference(),
            log_ratio: all.log_ratio(),
            nll: all.nll(),
            nll_base: all.nll_base(),
        }
    }
}

/// Returns the mean KL divergence of a text with the standard error that its parts show. Tokens of a part are not
/// independent of each other, as the standard error of [`Summary::divergence`] assumes; here the parts are the samples.
/// `None` below ten parts.
#[must_use]
pub fn over_parts<'a>(parts: impl Iterator<Item = &'a Summary> + Clone) -> Option<Uncertain> {
    let n_parts = parts.clone().count();
    if n_parts < FEWEST_PARTS {
        return None;
    }
    let tokens: f64 = parts.clone().map(|part| part.tokens as f64).sum();
    let value = parts.clone().map(|part| part.tokens as f64 * part.divergence.value).sum::<f64>() / tokens;
    let squares: f64 = parts.map(|part| (part.tokens as f64 * (part.divergence.value - value)).powi(2)).sum();
    let n = n_parts as f64;
    Some(Uncertain { value, error: (n / (n - 1.0) * squares).sqrt() / tokens })
}

/// With fewer parts their spread is not known well enough.
const FEWEST_PARTS: usize = 10;

fn sorted(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    values.sort_by(f32::total_cmp);
    values
}

/// Returns the value at a fraction of sorted values, in single precision as upstream interpolates it.
#[must_use]
pub fn percentile(sorted: &[f32], fraction: f32) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return f32::NAN };
    let at = fraction * last as f32;
    let below = (at as usize).min(last);
    let part = at - below as f32;
    (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
}

/// Returns the median of sorted values.
#[must_use]
pub fn median(sorted: &[f32]) -> f32 {
    let half = sorted.len() / 2;
    match sorted {
        [] => f32::NAN,
        _ if sorted.len().is_multiple_of(2) => 0.5 * (sorted[half] + sorted[half - 1]),
        _ => sorted[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    fn logits(random: &mut SplitMix64, n: usize) -> Vec<f32> {
        (0..n).map(|_| random.below(1 << 20) as f32 / f32::from(u16::MAX)).collect()
    }

    /// The definition, in double precision.
    fn exact(base: &[f32], other: &[f32]) -> f64 {
        let log_p = |logits: &[f32]| -> Vec<f64> {
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            logits.iter().map(|x| f64::from(*x) - sum.ln()).collect()
        };
        let (p, q) = (log_p(base), log_p(other));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    #[test]
    fn divergences_are_those_of_the_definition_but_for_rounding() {
        let mut random = SplitMix64::new(5);
        for n in [2, 3, 100, 1001] {
            let (base, other) = (logits(&mut random, n), logits(&mut random, n));
            let found = compare(&BaseRow::new(&base), &other, 1).unwrap();
            let expected = exact(&base, &other);
            assert!((found.divergence / expected - 1.0).abs() < 2e-3, "{n}: {} {expected}", found.divergence);
            let same = compare(&BaseRow::new(&base), &base, 0).unwrap();
            assert!(same.divergence.abs() < 1e-4 && same.same_top && same.difference.abs() < 1e-3, "{same:?}");
        }
        assert_eq!(compare(&BaseRow::new(&[1.0, 2.0]), &[1.0], 0), None);
        assert_eq!(compare(&BaseRow::new(&[1.0, 2.0]), &[1.0, 2.0], 2), None);
        assert_eq!(compare(&BaseRow::new(&[1.0, 2.0]), &[f32::NAN; 2], 1), None);
    }

    #[test]
    fn means_have_their_standard_errors() {
        let mut all = Divergence::default();
        for i in 0..20_u8 {
            let x = f32::from(i);
            let row = RowScore { nll: x, nll_base: x / 2.0, divergence: x.into(), difference: 0.1, same_top: i < 15 };
            all.add(&row);
        }
        let close = |found: Uncertain, value: f64, error: f64| {
            assert!((found.value - value).abs() < 1e-6 && (found.error - error).abs() < 1e-6, "{found:?}");
        };
        close(all.divergence(), 9.5, (33.25_f64 / 19.0).sqrt());
        close(all.log_ratio(), 4.75, (33.25_f64 / 4.0 / 19.0).sqrt());
        close(all.same_top(), 0.75, (0.75_f64 * 0.25 / 19.0).sqrt());
        close(all.rms_difference(), 0.1, 0.0);
        let sorted = all.sorted_divergences();
        assert_eq!((median(&sorted), percentile(&sorted, 0.5), percentile(&sorted, 1.0)), (9.5, 9.5, 19.0));
        assert!((median(&sorted[..3]) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn parts_that_are_appended_are_the_whole() {
        let mut random = SplitMix64::new(6);
        let (mut whole, mut parts) = (Divergence::default(), [Divergence::default(), Divergence::default()]);
        for i in 0..64 {
            let mut number = || random.below(1 << 10) as f32 / 64.0;
            let (nll, nll_base, difference) = (number(), number(), number());
            let row = RowScore { nll, nll_base, divergence: number().into(), difference, same_top: i % 3 == 0 };
            whole.add(&row);
            parts[usize::from(i >= 20)].add(&row);
        }
        let [mut first, second] = parts;
        first.append(&second);
        // All sums are exact here.
        assert_eq!(first, whole);
    }

    #[test]
    fn the_error_over_parts_is_the_spread_of_their_means() {
        let part = |tokens: usize, value: f64| {
            let mut all = Divergence::default();
            let row = RowScore { nll: 0.0, nll_base: 0.0, divergence: value, difference: 0.0, same_top: true };
            (0..tokens).for_each(|_| all.add(&row));
            Summary::from(&all)
        };
        // Means of 1 and 3 in equal numbers: the error of a mean of ten such, whatever the tokens per part.
        let parts: Vec<Summary> = (0..10).map(|i| part(50, if i % 2 == 0 { 1.0 } else { 3.0 })).collect();
        let found = over_parts(parts.iter()).unwrap();
        assert!((found.value - 2.0).abs() < 1e-9 && (found.error - 1.0 / 3.0).abs() < 1e-9, "{found:?}");
        let mut all = Divergence::default();
        for i in 0..500_u16 {
            let divergence = if i % 2 == 0 { 1.0 } else { 3.0 };
            all.add(&RowScore { nll: 0.0, nll_base: 0.0, divergence, difference: 0.0, same_top: true });
        }
        assert!(all.divergence().error < 0.05, "as if all tokens were independent");
        // A part of more tokens counts for more.
        let uneven: Vec<Summary> = (0..10).map(|i| if i == 0 { part(910, 2.0) } else { part(10, 1.0) }).collect();
        assert!((over_parts(uneven.iter()).unwrap().value - 1.91).abs() < 1e-9);
        assert_eq!(over_parts(parts[..9].iter()), None);
        let [low, high] = Uncertain { value: 2.0, error: 0.5 }.interval();
        assert!((low - 1.02).abs() < 1e-9 && (high - 2.98).abs() < 1e-9);
    }
}
