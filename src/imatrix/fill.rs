//! Fills experts that saw few tokens or none: from the other experts of their weight, or from sums of rows that were shown
//! to them.

use std::collections::BTreeMap;

use super::{Entry, Imatrix};

/// How an expert's sums were filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// From the other experts of its weight.
    Layer,
    /// From sampled rows of its layer, which went through the expert itself.
    Shown {
        /// Number of rows.
        rows: u32,
    },
}

/// Experts whose sums were filled, by weight.
pub type Filled = BTreeMap<String, BTreeMap<u32, Fill>>;

/// Sums of an expert's input over rows that were shown to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShownSums {
    /// Number of rows.
    pub rows: u32,
    /// Sum of squares per channel.
    pub sum2: Vec<f64>,
    /// Sum per channel.
    pub sum: Vec<f64>,
}

/// Sums of the rows that were shown to experts, by weight and expert.
pub type Shown = BTreeMap<String, BTreeMap<u32, ShownSums>>;

impl ShownSums {
    /// Adds a row, which has a value per channel.
    #[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only a run shows rows"))]
    pub(crate) fn add(&mut self, row: &[f32]) {
        self.rows += 1;
        for ((sum2, sum), &x) in self.sum2.iter_mut().zip(&mut self.sum).zip(row) {
            let x = f64::from(x);
            *sum2 += x * x;
            *sum += x;
        }
    }

    /// Returns the means of squares and of activations per channel; `None` if they are not finite, or not of `row` channels.
    fn means(&self, row: usize) -> Option<Means> {
        let mean = |sums: &[f64]| sums.iter().map(|sum| sum / f64::from(self.rows)).collect::<Vec<f64>>();
        let means = Means { sum2: mean(&self.sum2), sum: mean(&self.sum) };
        let fits = self.rows > 0 && means.sum2.len() == row && means.sum.len() == row;
        (fits && means.sum2.iter().chain(&means.sum).all(|x| x.is_finite())).then_some(means)
    }
}

/// Means per channel.
struct Means {
    sum2: Vec<f64>,
    /// Empty if the weight has no sums of activations.
    sum: Vec<f64>,
}

impl Imatrix {
    /// Blends each expert that saw fewer than `below` tokens with the mean of its weight's experts, and returns how many
    /// experts were filled. [`Imatrix::filled`] lists them.
    ///
    /// For an expert with the sums `s` over `c` tokens, and sums `S` over `C` tokens of all experts, the mean of squares
    /// becomes
    ///
    /// ```text
    /// (s + (below - c) S / C) / below
    /// ```
    ///
    /// per channel: an expert without tokens gets the mean, one with almost `below` tokens stays almost as it is. The same
    /// formula applies to the sums of activations. The number of tokens stays, so that nothing looks better covered than it
    /// is; an expert without tokens gets 1, since `llama-quantize` reads no sums without a count.
    ///
    /// An entry with one count, a weight without any token, and sums that are not finite are left as they are.
    pub fn fill_experts(&mut self, below: i64) -> usize {
        self.fill_experts_with(below, &Shown::new())
    }

    /// Does the same as [`fill_experts`](Self::fill_experts), but for experts in `shown` with their mean over the rows that
    /// were shown to them in place of `S / C`.
    pub fn fill_experts_with(&mut self, below: i64, shown: &Shown) -> usize {
        let mut n_filled = 0;
        for (name, entry) in &mut self.entries {
            let experts = entry.fill_experts(below, shown.get(name));
            n_filled += experts.len();
            if !experts.is_empty() {
                add(self.filled.entry(name.clone()).or_default(), &experts);
            }
        }
        n_filled
    }
}

impl Entry {
    fn fill_experts(&mut self, below: i64, shown: Option<&BTreeMap<u32, ShownSums>>) -> BTreeMap<u32, Fill> {
        let mut filled = BTreeMap::new();
        let Some(row) = self.row_len().filter(|&row| row > 0 && self.counts.len() > 1) else { return filled };
        let total: i64 = self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count.max(0)));
        let few: Vec<usize> = (0..self.counts.len()).filter(|&i| self.counts[i] < below).collect();
        if total == 0 || few.is_empty() {
            return filled;
        }
        let sum = self.sum.as_ref().map(|sum| mean(sum, row, total)).unwrap_or_default();
        let layer = Means { sum2: mean(&self.sum2, row, total), sum };
        if !layer.sum2.iter().chain(&layer.sum).all(|x| x.is_finite()) {
            return filled;
        }
        for &expert in &few {
            let Ok(number) = u32::try_from(expert) else { continue };
            let shown = shown.and_then(|shown| shown.get(&number));
            let own = shown.and_then(|shown| Some((shown.means(row)?, shown.rows)));
            let (means, how) = match &own {
                Some((means, rows)) => (means, Fill::Shown { rows: *rows }),
                None => (&layer, Fill::Layer),
            };
            let count = self.counts[expert].max(0);
            let range = expert * row..(expert + 1) * row;
            blend(&mut self.sum2[range.clone()], &means.sum2, count, below);
            if let Some(sum) = &mut self.sum {
                blend(&mut sum[range], &means.sum, count, below);
            }
            self.counts[expert] = count.max(1);
            filled.insert(number, how);
        }
        filled
    }
}

/// Returns the mean per channel over all tokens of all experts.
fn mean(sums: &[f32], row: usize, total: i64) -> Vec<f64> {
    let mut mean = vec![0.0; row];
    for expert in sums.chunks_exact(row) {
        mean.iter_mut().zip(expert).for_each(|(mean, &sum)| *mean += f64::from(sum));
    }
    for sum in &mut mean {
        *sum /= total as f64;
    }
    mean
}

fn blend(sums: &mut [f32], mean: &[f64], count: i64, below: i64) {
    let missing = (below - count) as f64;
    let scale = count.max(1) as f64 / below as f64;
    for (sum, mean) in sums.iter_mut().zip(mean) {
        // Sums without tokens are no data.
        let own = if count > 0 { f64::from(*sum) } else { 0.0 };
        *sum = ((own + missing * mean) * scale) as f32;
    }
}

/// Adds experts to those of a weight. An expert that was filled in both ways counts as filled from the others.
pub(super) fn add(list: &mut BTreeMap<u32, Fill>, experts: &BTreeMap<u32, Fill>) {
    for (&expert, &how) in experts {
        let known = list.entry(expert).or_insert(how);
        *known = match (*known, how) {
            (Fill::Shown { rows }, Fill::Shown { rows: more }) => Fill::Shown { rows: rows.max(more) },
            _ => Fill::Layer,
        };
    }
}

/// Says how many experts were filled, and how; `None` if none were.
#[must_use]
pub fn describe(filled: &Filled) -> Option<String> {
    let weights = filled.values().filter(|experts| !experts.is_empty()).count();
    let total: usize = filled.values().map(BTreeMap::len).sum();
    let shown = |how: &Fill| if let Fill::Shown { rows } = how { Some(*rows) } else { None };
    let rows: Vec<u32> = filled.values().flat_map(BTreeMap::values).filter_map(shown).collect();
    let from_rows = match (rows.iter().min(), rows.iter().max()) {
        (Some(least), Some(most)) if least == most => format!("{most} rows that were shown to them"),
        (Some(least), Some(most)) => format!("{least} to {most} rows that were shown to them"),
        _ => String::new(),
    };
    let all = format!("{total} experts in {weights} weights were filled");
    match (total, rows.len()) {
        (0, _) => None,
        (_, 0) => Some(format!("{all} from other experts")),
        (total, shown) if total == shown => Some(format!("{all} from {from_rows}")),
        (total, shown) => Some(format!("{all}: {} from other experts, {shown} from {from_rows}", total - shown)),
    }
}

/// Formats a weight's experts for a file: `NAME=1,5:256`, with the number of rows of those that were shown rows.
pub(super) fn written(filled: &Filled) -> Vec<String> {
    let expert = |(expert, how): (&u32, &Fill)| match how {
        Fill::Layer => expert.to_string(),
        Fill::Shown { rows } => format!("{expert}:{rows}"),
    };
    let joined = |experts: &BTreeMap<u32, Fill>| experts.iter().map(expert).collect::<Vec<_>>().join(",");
    filled.iter().map(|(name, experts)| format!("{name}={}", joined(experts))).collect()
}

/// Reads what [`written`] returns. Texts of another form are left out.
pub(super) fn read(texts: &[String]) -> Filled {
    let expert = |text: &str| match text.split_once(':') {
        None => Some((text.parse().ok()?, Fill::Layer)),
        Some((expert, rows)) => Some((expert.parse().ok()?, Fill::Shown { rows: rows.parse().ok()? })),
    };
    let mut filled = Filled::new();
    for (name, experts) in texts.iter().filter_map(|text| text.rsplit_once('=')) {
        let experts: BTreeMap<u32, Fill> = experts.split(',').filter_map(expert).collect();
        if !experts.is_empty() {
            add(filled.entry(name.to_owned()).or_default(), &experts);
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::{ChunkSizes, Format, Loaded};

    /// Experts with 6, 0 and 2 tokens.
    fn matrix() -> Imatrix {
        let entry = Entry {
            sum2: vec![12.0, 4.0, f32::NAN, f32::NAN, 4.0, 4.0],
            sum: Some(vec![6.0, 0.0, 0.0, 0.0, 2.0, 8.0]),
            counts: vec![6, 0, 2],
        };
        let one = Entry { sum2: vec![1.0, 1.0], sum: None, counts: vec![0] };
        let entries = [("a_exps".to_owned(), entry), ("dense".to_owned(), one)].into();
        Imatrix { entries, chunk_size: 4, ..Imatrix::default() }
    }

    #[test]
    fn an_unseen_expert_gets_the_mean_and_a_rare_one_a_blend() {
        let mut m = matrix();
        m.entries.get_mut("a_exps").unwrap().sum2[2..4].fill(0.0);
        assert_eq!(m.fill_experts(4), 2);
        let entry = &m.entries["a_exps"];
        assert_eq!(entry.counts, [6, 1, 2]);
        // The means of squares over 8 tokens are 2 and 1; of activations 1 and 1.
        assert_eq!(entry.sum2[..4], [12.0, 4.0, 2.0, 1.0]);
        // (4 + 2 * 2) / 4 = 2 and (4 + 2 * 1) / 4 = 1.5 per token, for 2 tokens.
        assert_eq!(entry.sum2[4..], [4.0, 3.0]);
        assert_eq!(entry.sum.as_deref().unwrap()[2..], [1.0, 1.0, 2.0, 5.0]);
        assert_eq!(m.entries["dense"].counts, [0], "one count is no expert's");
        assert_eq!(m.filled, of(&[(1, Fill::Layer), (2, Fill::Layer)]));
    }

    #[test]
    fn experts_are_not_filled_without_finite_data() {
        let mut m = matrix();
        let before = m.entries["a_exps"].counts.clone();
        assert_eq!((m.fill_experts(4), &m.entries["a_exps"].counts), (0, &before));
        m.entries.get_mut("a_exps").unwrap().counts.fill(0);
        assert_eq!(m.fill_experts(4), 0);
    }

    #[test]
    fn filled_experts_are_recorded_and_survive_a_merge() {
        let mut m = matrix();
        m.entries.get_mut("a_exps").unwrap().sum2[2..4].fill(0.0);
        let plain = bytes(&m);
        m.fill_experts(1);
        assert_ne!(bytes(&m), plain);
        let loaded = Imatrix::load_from(&bytes(&m)).unwrap();
        assert_eq!(loaded.filled, of(&[(1, Fill::Layer)]));
        let mut merged = Imatrix::default();
        for file in [&Imatrix::load_from(&plain).unwrap(), &loaded] {
            merged.merge(file, ChunkSizes { run: 4, legacy: 4 }).unwrap();
        }
        assert_eq!(merged.filled, loaded.filled);
        assert_eq!(Loaded::from(merged).filled, loaded.filled);
        let z = Filled::from([("z".to_owned(), [(1, Fill::Layer)].into())]);
        assert_eq!(read(&["x".into(), "y=".into(), "z=1,q,2:x".into()]), z);
    }

    #[test]
    fn a_shown_expert_gets_the_means_of_its_rows() {
        let mut m = matrix();
        m.entries.get_mut("a_exps").unwrap().sum2[2..4].fill(0.0);
        let mut sums = ShownSums { rows: 0, sum2: vec![0.0; 2], sum: vec![0.0; 2] };
        sums.add(&[3.0, -1.0]);
        sums.add(&[1.0, 0.0]);
        // Another length and sums that are not finite are no data: those experts are filled from the others.
        let short = ShownSums { rows: 1, sum2: vec![1.0], sum: vec![1.0] };
        let shown = Shown::from([("a_exps".to_owned(), [(1, sums), (2, short)].into())]);
        assert_eq!(m.fill_experts_with(4, &shown), 2);
        let entry = &m.entries["a_exps"];
        assert_eq!((&entry.counts[..], &entry.sum2[2..4]), (&[6, 1, 2][..], &[5.0, 0.5][..]));
        assert_eq!(entry.sum.as_deref().unwrap()[2..4], [2.0, -0.5]);
        assert_eq!(entry.sum2[4..], [4.0, 3.0], "as without rows");
        assert_eq!(m.filled, of(&[(1, Fill::Shown { rows: 2 }), (2, Fill::Layer)]));
        assert_eq!(read(&written(&m.filled)), m.filled);
        let text = describe(&m.filled).unwrap();
        assert_eq!(
            text,
            "2 experts in 1 weights were filled: 1 from other experts, 1 from 2 rows that were shown to them"
        );
        assert_eq!(describe(&Filled::new()), None);
    }

    #[test]
    fn a_rare_expert_is_blended_with_the_rows_it_was_shown() {
        let mut m = matrix();
        m.entries.get_mut("a_exps").unwrap().sum2[2..4].fill(0.0);
        let sums = ShownSums { rows: 2, sum2: vec![2.0, 8.0], sum: vec![2.0, 0.0] };
        m.fill_experts_with(4, &Shown::from([("a_exps".to_owned(), [(2, sums)].into())]));
        // (4 + 2 * 1) / 4 = 1.5 and (4 + 2 * 4) / 4 = 3 per token, for 2 tokens.
        assert_eq!(m.entries["a_exps"].sum2[4..], [3.0, 6.0]);
        assert_eq!(m.entries["a_exps"].counts[2], 2);
    }

    fn of(experts: &[(u32, Fill)]) -> Filled {
        Filled::from([("a_exps".to_owned(), experts.iter().copied().collect())])
    }

    fn bytes(m: &Imatrix) -> Vec<u8> {
        let mut out = Vec::new();
        m.write(&mut out, Format::Gguf).unwrap();
        out
    }
}
