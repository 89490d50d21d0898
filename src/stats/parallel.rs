//! Spreads independent computations over the machine's threads; results keep their order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::lanes::LANES;

/// Numbers to work on from which threads pay.
const WORTH_THREADS: usize = 1 << 18;

/// Indices of items in groups of at most [`LANES`], so that a group's items are of about one size
/// and there is a group for every thread.
pub(super) fn groups(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut by_size: Vec<usize> = (0..sizes.len()).collect();
    by_size.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    let size = sizes.len().div_ceil(available()).clamp(1, LANES);
    by_size.chunks(size).map(<[usize]>::to_vec).collect()
}

fn available() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// `f` of every item. `work` is how many numbers all of them together have.
pub(crate) fn map<I: Sync, T: Send>(items: &[I], work: usize, f: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let threads = available().min(items.len());
    if threads < 2 || work < WORTH_THREADS {
        return items.iter().map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        while let Some((i, item)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, items.get(i)?))) {
            done.push((i, f(item)));
        }
        done
    };
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take_turns)).collect();
        let mut all = take_turns();
        for other in others {
            match other.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn order_is_kept_on_threads() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(super::map(&items, usize::MAX, |i| i * 2), super::map(&items, 0, |i| i * 2));
    }
}
