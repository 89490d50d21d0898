//! One choice per item, of least cost within a budget: the multiple-choice knapsack.
//!
//! The Lagrangian `cost + λ bytes` gives the solution on the convex hull and a lower bound. An exchange of one or two
//! choices fills the rest of the budget. Then all choices that the bound cannot rule out are searched, which ends with
//! the optimum unless there are too many.

use std::cmp::Ordering;

/// Most states of the last search. With more it ends without a result.
const MOST_STATES: usize = 4_000_000;

/// One way to store an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its size.
    pub bytes: u64,
    /// Its cost, finite.
    pub cost: f64,
}

/// The chosen way per item.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Index of the choice, one per item.
    pub picks: Vec<usize>,
    /// Size of all items.
    pub bytes: u64,
    /// Cost of all items.
    pub cost: f64,
    /// No solution costs less than this.
    pub bound: f64,
    /// True if no solution costs less than this one.
    pub is_optimal: bool,
}

/// Returns a solution of least cost; `None` if even the smallest choices exceed the budget, or an item has no choice.
#[must_use]
pub fn solve(items: &[Vec<Choice>], budget: u64) -> Option<Solution> {
    let hulls: Vec<Vec<usize>> = items.iter().map(|choices| hull(choices)).collect();
    let mut picks = hulls.iter().map(|hull| hull.first().copied()).collect::<Option<Vec<usize>>>()?;
    let (bytes, _) = total(items, &picks);
    if bytes > budget {
        return None;
    }
    let (bound, lambda) = relax(items, &hulls, &mut picks, budget);
    exchange(items, &mut picks, budget);
    let cost = total(items, &picks).1;
    let better = search(items, budget, lambda, cost);
    let is_optimal = better.is_some();
    if let Some(found) = better.flatten() {
        picks = found;
    }
    let (bytes, cost) = total(items, &picks);
    Some(Solution { picks, bytes, cost, bound: bound.min(cost), is_optimal })
}

/// Returns the points of the curve of least cost against size that no mixture of others beats: sizes ascending.
#[must_use]
pub fn curve(items: &[Vec<Choice>]) -> Vec<Choice> {
    let hulls: Vec<Vec<usize>> = items.iter().map(|choices| hull(choices)).collect();
    let first = hulls.iter().zip(items).filter_map(|(hull, item)| hull.first().map(|&i| item[i]));
    let mut at = first
        .fold(Choice { bytes: 0, cost: 0.0 }, |sum, c| Choice { bytes: sum.bytes + c.bytes, cost: sum.cost + c.cost });
    let mut points = vec![at];
    for step in steps(items, &hulls) {
        at = Choice { bytes: at.bytes + step.bytes, cost: at.cost - step.gain };
        points.push(at);
    }
    points
}

fn total(items: &[Vec<Choice>], picks: &[usize]) -> (u64, f64) {
    let chosen = items.iter().zip(picks).map(|(item, &i)| item[i]);
    chosen.fold((0, 0.0), |(bytes, cost), c| (bytes + c.bytes, cost + c.cost))
}

/// Returns the choices on the lower convex hull, smallest first.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).filter(|&i| choices[i].cost.is_finite()).collect();
    order.sort_by(|&a, &b| (choices[a].bytes.cmp(&choices[b].bytes)).then(choices[a].cost.total_cmp(&choices[b].cost)));
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        if kept.last().is_some_and(|&last| choices[i].cost >= choices[last].cost) {
            continue;
        }
        while let [.., a, b] = kept[..]
            && slope(choices[a], choices[b]) <= slope(choices[a], choices[i])
        {
            kept.pop();
        }
        kept.push(i);
    }
    kept
}

/// Cost saved per byte from one choice to a larger one.
fn slope(from: Choice, to: Choice) -> f64 {
    (from.cost - to.cost) / (to.bytes - from.bytes).max(1) as f64
}

/// A step from one choice of a hull to the next.
struct Step {
    item: usize,
    to: usize,
    bytes: u64,
    gain: f64,
}

impl Step {
    fn rate(&self) -> f64 {
        self.gain / self.bytes.max(1) as f64
    }
}

/// All steps, those that save most per byte first. Along a hull rates fall, so each item's steps are in order.
fn steps(items: &[Vec<Choice>], hulls: &[Vec<usize>]) -> Vec<Step> {
    let of_item = |(item, hull): (usize, &Vec<usize>)| {
        let step = |pair: &[usize]| {
            let (from, to) = (items[item][pair[0]], items[item][pair[1]]);
            Step { item, to: pair[1], bytes: to.bytes - from.bytes, gain: from.cost - to.cost }
        };
        hull.windows(2).map(step).collect::<Vec<_>>()
    };
    let mut all: Vec<Step> = hulls.iter().enumerate().flat_map(of_item).collect();
    all.sort_by(|a, b| b.rate().total_cmp(&a.rate()));
    all
}

/// Takes steps while they fit. Returns the cost of the fractional solution, which is a lower bound, and its λ.
fn relax(items: &[Vec<Choice>], hulls: &[Vec<usize>], picks: &mut [usize], budget: u64) -> (f64, f64) {
    let (mut bytes, mut cost) = total(items, picks);
    for step in steps(items, hulls) {
        if bytes + step.bytes > budget {
            let rate = step.rate();
            return (cost - rate * (budget - bytes) as f64, rate);
        }
        bytes += step.bytes;
        cost -= step.gain;
        picks[step.item] = step.to;
    }
    (cost, 0.0)
}

/// A change of one item: bytes and cost that it adds.
#[derive(Clone, Copy)]
struct Move {
    item: usize,
    to: usize,
    bytes: i128,
    cost: f64,
}

/// Changes one choice, or two at once, as long as that lowers the cost.
fn exchange(items: &[Vec<Choice>], picks: &mut [usize], budget: u64) {
    loop {
        let left = i128::from(budget) - i128::from(total(items, picks).0);
        let mut moves = Vec::new();
        for (item, choices) in items.iter().enumerate() {
            let now = choices[picks[item]];
            for (to, choice) in choices.iter().enumerate().filter(|(to, c)| *to != picks[item] && c.cost.is_finite()) {
                let bytes = i128::from(choice.bytes) - i128::from(now.bytes);
                moves.push(Move { item, to, bytes, cost: choice.cost - now.cost });
            }
        }
        moves.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost)));
        let Some((first, second)) = best_pair(&moves, left) else { return };
        // Rounding must not keep it going for ever.
        let gain = -(first.cost + second.map_or(0.0, |m| m.cost));
        if gain <= total(items, picks).1.abs() * 1e-12 {
            return;
        }
        for change in std::iter::once(first).chain(second) {
            picks[change.item] = change.to;
        }
    }
}

/// Returns the change of one or two items that lowers the cost most within `left` bytes. `moves` are sorted by bytes.
fn best_pair(moves: &[Move], left: i128) -> Option<(Move, Option<Move>)> {
    // Per prefix of `moves`: its cheapest move, and the cheapest of another item.
    let mut cheapest: Vec<(Move, Option<Move>)> = Vec::with_capacity(moves.len());
    for &new in moves {
        cheapest.push(match cheapest.last() {
            None => (new, None),
            Some(&(best, _)) if new.cost < best.cost && new.item != best.item => (new, Some(best)),
            Some(&(best, other)) if new.cost < best.cost => (new, other.filter(|o| o.item != best.item)),
            Some(&(best, other)) if new.item != best.item && other.is_none_or(|o| new.cost < o.cost) => {
                (best, Some(new))
            }
            Some(&last) => last,
        });
    }
    let mut found: Option<(f64, Move, Option<Move>)> = None;
    let mut offer = |cost: f64, first: Move, second: Option<Move>| {
        if cost < 0.0 && found.as_ref().is_none_or(|(best, ..)| cost < *best) {
            found = Some((cost, first, second));
        }
    };
    for &first in moves {
        let room = left - first.bytes;
        if room >= 0 {
            offer(first.cost, first, None);
        }
        let fitting = moves.partition_point(|m| m.bytes <= room);
        let Some(&(best, other)) = fitting.checked_sub(1).and_then(|i| cheapest.get(i)) else { continue };
        let second = if best.item == first.item { other } else { Some(best) };
        if let Some(second) = second {
            offer(first.cost + second.cost, first, Some(second));
        }
    }
    found.map(|(_, first, second)| (first, second))
}

/// A partial solution over the first items.
#[derive(Clone, Copy)]
struct State {
    bytes: u64,
    cost: f64,
    /// Index of the state over one item less.
    before: u32,
    choice: u32,
}

/// Searches all solutions that may cost less than `best`. Returns `None` if there are too many, else the cheapest, if
/// any.
#[expect(clippy::option_option, reason = "not finished, finished without a better one, finished with one")]
fn search(items: &[Vec<Choice>], budget: u64, lambda: f64, best: f64) -> Option<Option<Vec<usize>>> {
    let relaxed = |c: &Choice| c.cost + lambda * c.bytes as f64;
    // Per item, the least that it and all items after it add to a solution.
    let (mut rest, mut rest_bytes) = (vec![0.0; items.len() + 1], vec![0_u64; items.len() + 1]);
    for (i, choices) in items.iter().enumerate().rev() {
        let finite = || choices.iter().filter(|c| c.cost.is_finite());
        rest[i] = rest[i + 1] + finite().map(relaxed).fold(f64::INFINITY, f64::min);
        rest_bytes[i] = rest_bytes[i + 1] + finite().map(|c| c.bytes).min().unwrap_or(0);
    }
    let paid = lambda * budget as f64;
    let limit = best - best.abs() * 1e-12;
    let may_win = |bytes: u64, cost: f64, next: usize| {
        bytes + rest_bytes[next] <= budget && cost + lambda * bytes as f64 + rest[next] - paid < limit
    };
    let mut levels: Vec<Vec<State>> = vec![vec![State { bytes: 0, cost: 0.0, before: 0, choice: 0 }]];
    let mut kept = 0;
    for (i, choices) in items.iter().enumerate() {
        let mut states = Vec::new();
        for (before, state) in (0_u32..).zip(&levels[i]) {
            for (choice, c) in (0_u32..).zip(choices).filter(|(_, c)| c.cost.is_finite()) {
                let (bytes, cost) = (state.bytes + c.bytes, state.cost + c.cost);
                if may_win(bytes, cost, i + 1) {
                    states.push(State { bytes, cost, before, choice });
                }
            }
            if states.len() > MOST_STATES {
                return None;
            }
        }
        states.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost)));
        // Larger and not cheaper: never needed.
        let mut least = f64::INFINITY;
        states.retain(|s| {
            s.cost.total_cmp(&least) == Ordering::Less && {
                least = s.cost;
                true
            }
        });
        kept += states.len();
        if kept > MOST_STATES {
            return None;
        }
        levels.push(states);
    }
    // The last state is the largest and cheapest. The bound lets states pass that stay below the budget and cost more.
    let complete = &levels[items.len()];
    if complete.last().is_none_or(|state| state.cost >= limit) {
        return Some(None);
    }
    let mut at = complete.len() - 1;
    let mut picks = vec![0; items.len()];
    for i in (0..items.len()).rev() {
        let state = levels[i + 1][at];
        picks[i] = state.choice as usize;
        at = state.before as usize;
    }
    Some(Some(picks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    /// The least cost per budget, by dynamic programming over every number of bytes.
    fn by_table(items: &[Vec<Choice>], budget: usize) -> Vec<f64> {
        let mut least = vec![0.0; budget + 1];
        for choices in items {
            let mut next = vec![f64::INFINITY; budget + 1];
            for (bytes, slot) in next.iter_mut().enumerate() {
                for c in choices.iter().filter(|c| c.bytes as usize <= bytes) {
                    *slot = slot.min(least[bytes - c.bytes as usize] + c.cost);
                }
            }
            least = next;
        }
        least
    }

    fn case(random: &mut SplitMix64) -> Vec<Vec<Choice>> {
        (0..=random.below(7))
            .map(|_| {
                let scale = 1 + random.below(1000);
                let size = 1 + random.below(9);
                (0..=random.below(6))
                    .map(|i| {
                        let bytes = size * (i + 1) + random.below(4);
                        // Mostly falling with the size, sometimes not.
                        let cost = scale as f64 / (bytes * bytes) as f64 * (0.5 + random.below(100) as f64 / 100.0);
                        Choice { bytes, cost }
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn solutions_are_those_of_dynamic_programming() {
        let mut random = SplitMix64::new(7);
        let mut solved = 0;
        for number in 0..400 {
            let items = case(&mut random);
            let most: u64 = items.iter().map(|c| c.iter().map(|c| c.bytes).max().unwrap_or(0)).sum();
            let table = by_table(&items, most as usize);
            for budget in 0..=most {
                let expected = table[budget as usize];
                let Some(found) = solve(&items, budget) else {
                    assert!(expected.is_infinite(), "case {number}, budget {budget}: no solution, expected {expected}");
                    continue;
                };
                let close = (found.cost - expected).abs() <= expected.abs() * 1e-9;
                assert!(close, "case {number}, budget {budget}: {} expected {expected}", found.cost);
                assert!(found.is_optimal && found.bytes <= budget && found.bound <= expected * (1.0 + 1e-9));
                assert_eq!(total(&items, &found.picks), (found.bytes, found.cost));
                solved += 1;
            }
        }
        assert!(solved > 5000, "{solved}");
    }

    /// Without the last search: what the exchange alone reaches.
    #[test]
    fn exchanges_come_close_to_the_optimum() {
        let mut random = SplitMix64::new(8);
        let (mut found, mut optimal) = (0.0, 0.0);
        for _ in 0..300 {
            let items = case(&mut random);
            let hulls: Vec<Vec<usize>> = items.iter().map(|c| hull(c)).collect();
            let mut picks: Vec<usize> = hulls.iter().map(|h| h[0]).collect();
            let budget = total(&items, &picks).0 + random.below(40);
            relax(&items, &hulls, &mut picks, budget);
            let before = total(&items, &picks).1;
            exchange(&items, &mut picks, budget);
            let after = total(&items, &picks).1;
            assert!(after <= before);
            let least = by_table(&items, budget as usize)[budget as usize];
            assert!(after >= least * (1.0 - 1e-9));
            found += after / least;
            optimal += 1.0;
        }
        assert!(found / optimal < 1.05, "{}", found / optimal);
    }

    #[test]
    fn many_items_stay_within_a_small_part_of_the_bound() {
        let mut random = SplitMix64::new(9);
        let items: Vec<Vec<Choice>> = (0..300)
            .map(|_| {
                let (scale, n) = (1 + random.below(100_000), 1 + random.below(100));
                let choice = |bits: u64| Choice {
                    bytes: n * 1024 * bits + random.below(3) * 16,
                    cost: scale as f64 * n as f64 * 0.25_f64.powi(bits as i32),
                };
                (2..9).map(choice).collect()
            })
            .collect();
        let budget = items.iter().map(|c| c[2].bytes).sum();
        let found = solve(&items, budget).unwrap();
        assert!(found.bytes <= budget && found.cost < found.bound * 1.0005, "{} {}", found.cost, found.bound);
        let on_curve = curve(&items);
        assert!(on_curve.is_sorted_by(|a, b| a.bytes <= b.bytes && a.cost >= b.cost) && on_curve.len() > 1000);
    }
}
