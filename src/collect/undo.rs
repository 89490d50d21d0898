//! What an addition changed, so that it can be told apart from what was there before.

use crate::imatrix::Entry;

/// The state before the last addition to an entry: the counts, and the sums of the matrices it touched.
#[derive(Debug, Default)]
pub(super) struct Undo {
    counts: Vec<i64>,
    matrices: Vec<usize>,
    sum2: Vec<f32>,
    sum: Vec<f32>,
    channels: usize,
}

impl Undo {
    /// Remembers `matrices` of `entry`, each `channels` wide. Memory is kept from one addition to the next.
    pub(super) fn save(&mut self, entry: &Entry, channels: usize, matrices: impl Iterator<Item = usize>) {
        self.channels = channels;
        self.counts.clone_from(&entry.counts);
        self.matrices.clear();
        self.matrices.extend(matrices);
        self.sum2.clear();
        self.sum.clear();
        for &m in &self.matrices {
            let range = m * channels..(m + 1) * channels;
            self.sum2.extend_from_slice(&entry.sum2[range.clone()]);
            if let Some(sum) = &entry.sum {
                self.sum.extend_from_slice(&sum[range]);
            }
        }
    }

    /// `entry` as it was when [`save`](Self::save) was called.
    pub(super) fn before(&self, entry: &Entry) -> Entry {
        let mut before = entry.clone();
        before.counts.clone_from(&self.counts);
        for (i, &m) in self.matrices.iter().enumerate() {
            let (to, from) = (m * self.channels..(m + 1) * self.channels, i * self.channels..(i + 1) * self.channels);
            before.sum2[to.clone()].copy_from_slice(&self.sum2[from.clone()]);
            if let Some(sum) = &mut before.sum {
                sum[to].copy_from_slice(&self.sum[from]);
            }
        }
        before
    }
}
