//! What an addition changed, so that it can be told apart from what was there before.

use super::stored::Stored;
use crate::exact::ExactEntry;
use crate::sums::Sums;

/// The state before the last addition to a weight's sums: the counts, and the sums of the matrices it touched.
#[derive(Debug, Default)]
pub(super) struct Rollback {
    counts: Vec<i64>,
    matrices: Vec<usize>,
    sums: Option<Stored>,
    channels: usize,
}

impl Rollback {
    /// Remembers `matrices` of `sums`, each `channels` wide. Memory is kept from one addition to the next.
    pub(super) fn save(&mut self, sums: &Stored, channels: usize, matrices: impl Iterator<Item = usize>) {
        self.channels = channels;
        sums.counts().clone_into(&mut self.counts);
        self.matrices.clear();
        self.matrices.extend(matrices);
        self.sums.take_if(|saved| std::mem::discriminant(saved) != std::mem::discriminant(sums));
        let saved = self.sums.get_or_insert_with(|| match sums {
            Stored::F32(_) => Stored::F32(Sums::default()),
            Stored::Exact(_) => Stored::Exact(ExactEntry::default()),
            Stored::Wide(_) => Stored::Wide(Sums::default()),
        });
        saved.clear();
        for &matrix in &self.matrices {
            saved.append(sums, matrix * channels..(matrix + 1) * channels);
        }
    }

    /// `sums` as they were when [`save`](Self::save) was called.
    pub(super) fn before(&self, sums: &Stored) -> Stored {
        let mut before = sums.clone();
        self.counts.clone_into(before.counts_mut());
        if let Some(saved) = &self.sums {
            for (i, &matrix) in self.matrices.iter().enumerate() {
                let values = matrix * self.channels..(matrix + 1) * self.channels;
                before.restore(values, saved, i * self.channels);
            }
        }
        before
    }
}
