//! Several weights at once, a lane of the vector unit each.
//!
//! A running mean waits a division per column for the column before, so that one weight alone leaves
//! most of a core idle; and what one weight's columns add up to depends on their order, which is
//! upstream's. Different weights have no order among them: side by side, each keeps its own.

/// Weights at once: the widest vectors hold eight f64.
pub(super) const LANES: usize = 8;
/// Columns fetched at once. Two numbers each for all lanes are 16 KiB: they stay in the first cache.
pub(super) const BLOCK: usize = 128;

/// One number a lane.
pub(super) type Lane = [f64; LANES];

/// Pairs of numbers, one after the other: a column's two averages.
pub(super) trait Pairs {
    /// Hands out the next pairs by calling `put` with 0, 1, … up to `n - 1`; returns how many there
    /// were, fewer than `n` only at the end.
    fn next(&mut self, n: usize, put: impl FnMut(usize, f64, f64)) -> usize;
}

/// What the pairs of each lane add up to.
pub(super) trait Chains {
    /// Takes one pair of lane `lane`; to be inlined into a loop over all lanes, which makes vectors of it.
    fn take(&mut self, lane: usize, a: f64, b: f64);
}

/// Takes every pair of every lane, each lane's in order.
pub(super) fn run<P: Pairs, C: Chains>(feeds: &mut [P], chains: &mut C) {
    // A lane without a feed has pairs as long as the others: they are taken and mean nothing.
    let (mut a, mut b) = ([[1.0; LANES]; BLOCK], [[1.0; LANES]; BLOCK]);
    let mut counts = [BLOCK; LANES];
    loop {
        for (lane, feed) in feeds.iter_mut().enumerate().take(LANES) {
            counts[lane] = feed.next(BLOCK, |i, x, y| {
                a[i][lane] = x;
                b[i][lane] = y;
            });
        }
        let common = counts.into_iter().min().unwrap_or(0);
        for (a, b) in a[..common].iter().zip(&b[..common]) {
            for lane in 0..LANES {
                chains.take(lane, a[lane], b[lane]);
            }
        }
        for (lane, &count) in counts.iter().enumerate().take(feeds.len()) {
            for i in common..count {
                chains.take(lane, a[i][lane], b[i][lane]);
            }
        }
        if counts.into_iter().take(feeds.len()).all(|count| count < BLOCK) {
            return;
        }
    }
}
