//! Fills experts that saw few tokens or none from the other experts of their weight.

use std::collections::BTreeMap;

use super::{Entry, Imatrix};

/// Experts whose sums were filled, by weight: indices in ascending order.
pub type Filled = BTreeMap<String, Vec<u32>>;

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
        let mut n_filled = 0;
        for (name, entry) in &mut self.entries {
            let experts = entry.fill_experts(below);
            n_filled += experts.len();
            if !experts.is_empty() {
                add(self.filled.entry(name.clone()).or_default(), &experts);
            }
        }
        n_filled
    }
}

impl Entry {
    fn fill_experts(&mut self, below: i64) -> Vec<u32> {
        let Some(row) = self.row_len().filter(|&row| row > 0 && self.counts.len() > 1) else { return Vec::new() };
        let total: i64 = self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count.max(0)));
        let few: Vec<usize> = (0..self.counts.len()).filter(|&i| self.counts[i] < below).collect();
        if total == 0 || few.is_empty() {
            return Vec::new();
        }
        let (squares, sums) = (mean(&self.sum2, row, total), self.sum.as_ref().map(|sum| mean(sum, row, total)));
        if !squares.iter().chain(sums.iter().flatten()).all(|x| x.is_finite()) {
            return Vec::new();
        }
        for &expert in &few {
            let count = self.counts[expert].max(0);
            let range = expert * row..(expert + 1) * row;
            blend(&mut self.sum2[range.clone()], &squares, count, below);
            if let (Some(sum), Some(sums)) = (&mut self.sum, &sums) {
                blend(&mut sum[range], sums, count, below);
            }
            self.counts[expert] = count.max(1);
        }
        few.into_iter().filter_map(|expert| u32::try_from(expert).ok()).collect()
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

/// Adds experts to a list in ascending order.
pub(super) fn add(list: &mut Vec<u32>, experts: &[u32]) {
    list.extend_from_slice(experts);
    list.sort_unstable();
    list.dedup();
}

/// Formats a weight's experts for a file: `NAME=1,5`.
pub(super) fn written(filled: &Filled) -> Vec<String> {
    let joined = |experts: &[u32]| experts.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    filled.iter().map(|(name, experts)| format!("{name}={}", joined(experts))).collect()
}

/// Reads what [`written`] returns. Texts of another form are left out.
pub(super) fn read(texts: &[String]) -> Filled {
    let mut filled = Filled::new();
    for (name, experts) in texts.iter().filter_map(|text| text.rsplit_once('=')) {
        let experts: Vec<u32> = experts.split(',').filter_map(|expert| expert.parse().ok()).collect();
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
        assert_eq!(m.filled, Filled::from([("a_exps".to_owned(), vec![1, 2])]));
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
        assert_eq!(loaded.filled, Filled::from([("a_exps".to_owned(), vec![1])]));
        let mut merged = Imatrix::default();
        for file in [&Imatrix::load_from(&plain).unwrap(), &loaded] {
            merged.merge(file, ChunkSizes { run: 4, legacy: 4 }).unwrap();
        }
        assert_eq!(merged.filled, loaded.filled);
        assert_eq!(Loaded::from(merged).filled, loaded.filled);
        assert_eq!(read(&["x".into(), "y=".into(), "z=1,q".into()]), Filled::from([("z".to_owned(), vec![1])]));
    }

    fn bytes(m: &Imatrix) -> Vec<u8> {
        let mut out = Vec::new();
        m.write(&mut out, Format::Gguf).unwrap();
        out
    }
}
