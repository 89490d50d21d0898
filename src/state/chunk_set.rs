//! Sets of chunks.

use std::fmt;
use std::ops::Range;

/// Chunks by their index in the text, kept as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkSet {
    ranges: Vec<Range<u64>>,
}

impl ChunkSet {
    /// Creates a set of these ranges; `None` unless they are sorted and not empty, and neither overlap nor touch.
    #[must_use]
    pub(crate) fn from_sorted(ranges: Vec<Range<u64>>) -> Option<Self> {
        let filled = ranges.iter().all(|range| range.start < range.end);
        let apart = ranges.is_sorted_by(|a, b| a.end < b.start);
        (filled && apart).then_some(Self { ranges })
    }

    /// Adds `chunks`.
    pub fn insert(&mut self, chunks: Range<u64>) {
        if chunks.is_empty() {
            return;
        }
        // Ranges that overlap or touch become one.
        let first = self.ranges.partition_point(|range| range.end < chunks.start);
        let after = self.ranges.partition_point(|range| range.start <= chunks.end);
        let joined = self.ranges[first..after].iter().fold(chunks, |a, b| a.start.min(b.start)..a.end.max(b.end));
        self.ranges.splice(first..after, [joined]);
    }

    /// Adds all chunks of `others`.
    pub(crate) fn insert_all(&mut self, others: &Self) {
        others.ranges.iter().for_each(|range| self.insert(range.clone()));
    }

    /// Returns the ranges, in order.
    #[must_use]
    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Returns true if `chunk` is in the set.
    #[must_use]
    pub(crate) fn contains(&self, chunk: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= chunk);
        after > 0 && self.ranges[after - 1].contains(&chunk)
    }

    /// Returns the number of chunks.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Returns true if the set has no chunks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Iterates over the chunks, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().flat_map(Clone::clone)
    }

    /// Returns the chunks that are in both sets.
    #[must_use]
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for a in &self.ranges {
            let from = other.ranges.partition_point(|b| b.end <= a.start);
            for b in other.ranges[from..].iter().take_while(|b| b.start < a.end) {
                out.insert(a.start.max(b.start)..a.end.min(b.end));
            }
        }
        out
    }

    /// Returns the chunks of `whole` that are not in the set.
    #[must_use]
    pub(crate) fn missing_from(&self, whole: Range<u64>) -> Self {
        let mut out = Self::default();
        let mut at = whole.start;
        for range in self.ranges.iter().filter(|range| range.end > whole.start) {
            out.insert(at..range.start.min(whole.end));
            at = range.end.max(at);
        }
        out.insert(at..whole.end);
        out
    }
}

/// Formats the first eight ranges, with chunks counted from 1: `1-4, 9`.
impl fmt::Display for ChunkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, range) in self.ranges.iter().take(SHOWN).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match range.end - range.start {
                1 => write!(f, "{comma}{}", range.end)?,
                _ => write!(f, "{comma}{}-{}", range.start + 1, range.end)?,
            }
        }
        if self.ranges.len() > SHOWN { f.write_str(", ...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(ranges: &[Range<u64>]) -> ChunkSet {
        let mut set = ChunkSet::default();
        for range in ranges {
            set.insert(range.clone());
        }
        set
    }

    #[test]
    fn ranges_join_and_are_shown_from_1() {
        assert_eq!(set(&[4..6, 0..2, 2..4]).ranges(), std::slice::from_ref(&(0..6)));
        assert_eq!(set(&[8..9, 0..4, 3..3]).to_string(), "1-4, 9");
        assert_eq!(ChunkSet::default().to_string(), "none");
        assert_eq!(ChunkSet::from_sorted(vec![0..4, 8..9]), Some(set(&[0..4, 8..9])));
        for bad in [vec![0..1, 3..3], vec![0..4, 4..5], vec![5..6, 0..1], vec![0..1, Range { start: 4, end: 2 }]] {
            assert_eq!(ChunkSet::from_sorted(bad), None);
        }
    }

    #[test]
    fn sets_of_ranges_agree_with_sets_of_chunks() {
        let mut state = 7_u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..500 {
            let mut make = || {
                let ranges: Vec<_> = (0..next(5)).map(|_| (next(30), next(6))).map(|(at, n)| at..at + n).collect();
                let members: BTreeSet<u64> = ranges.iter().flat_map(Clone::clone).collect();
                (set(&ranges), members)
            };
            let ((a, in_a), (b, in_b)) = (make(), make());
            assert!(a.iter().eq(in_a.iter().copied()) && a.len() == in_a.len() as u64);
            assert_eq!(ChunkSet::from_sorted(a.ranges().to_vec()), Some(a.clone()));
            assert!((0..40).all(|chunk| a.contains(chunk) == in_a.contains(&chunk)));
            assert!(a.intersection(&b).iter().eq(in_a.intersection(&in_b).copied()), "{a} and {b}");
            assert!(a.missing_from(3..20).iter().eq((3..20).filter(|chunk| !in_a.contains(chunk))), "{a}");
        }
    }
}
