//! Draws the sampled positions of a chunk.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::random::SplitMix64;

/// Draws `n` positions from `among`, or all if there are at most `n`, ascending. They depend on seed and chunk alone.
#[must_use]
#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only a run samples"))]
pub(crate) fn positions(seed: u64, chunk: u64, among: Range<usize>, n: usize) -> Vec<usize> {
    if among.len() <= n {
        return among.collect();
    }
    let mut random = SplitMix64::new(seed ^ chunk.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Floyd's algorithm: every set of `n` positions is equally likely.
    let mut drawn = BTreeSet::new();
    for last in among.len() - n..among.len() {
        let position = random.below(last as u64 + 1) as usize;
        if !drawn.insert(position) {
            drawn.insert(last);
        }
    }
    drawn.into_iter().map(|position| among.start + position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_distinct_ascending_and_the_same_each_time() {
        let drawn = positions(7, 3, 100..611, 32);
        assert_eq!(drawn, positions(7, 3, 100..611, 32));
        assert_eq!(drawn.len(), 32);
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(drawn.iter().all(|position| (100..611).contains(position)));
        assert_ne!(drawn, positions(7, 4, 100..611, 32), "another chunk");
        assert_ne!(drawn, positions(8, 3, 100..611, 32), "another seed");
        assert_eq!(positions(7, 3, 5..8, 32), [5, 6, 7]);
        assert!(positions(7, 3, 5..5, 32).is_empty());
    }

    #[test]
    fn all_positions_are_drawn_equally_often() {
        let mut counts = [0_u32; 16];
        for chunk in 0..4000 {
            for position in positions(1, chunk, 0..16, 4) {
                counts[position] += 1;
            }
        }
        assert!(counts.iter().all(|&count| (900..1100).contains(&count)), "{counts:?}");
    }
}
