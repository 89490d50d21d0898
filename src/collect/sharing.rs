//! One set of sums, called a capture, for all weights that read the same input.
//!
//! Query, key and value read one tensor; so do gate and up. Their sums are equal to the bit, so they are kept once and
//! written per weight. The collector learns from the graph which weights share. In the first evaluation that uses a
//! weight, it has separate sums. Weights that read the same tensor there, and have equal sums afterwards, share a
//! capture from then on. A weight that later reads another input parts: it gets a copy of the sums from before the
//! addition that it did not read. The results are therefore always those of separate sums.
//!
//! Lanes evaluate batches in parallel, but each capture takes the batches in order. A batch has its turn until its uses
//! of the capture's weights are as many as in the first batch; then it is the next batch's turn. At that time all
//! weights have read the same input, so none parts from sums that a later batch has changed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sums::{Accumulate, Half, OnDevice};

use super::even::EvenHalf;
use super::pending::{BATCHES_AWAY, Pending};
use super::stored::Stored;

/// The sums of a capture.
#[derive(Debug)]
pub(super) struct CaptureSums {
    /// Sums on the host. Snapshots may refer to them: a change then makes a copy.
    pub(super) entry: Arc<Stored>,
    /// The sums before the last addition, if several weights shared them: a weight that parts takes these.
    pub(super) before: Option<Arc<Stored>>,
    /// The part of the sums that is on a device; `entry` is then [`Stored::Wide`].
    pub(super) pending: Option<Pending>,
    /// The even half, if it is kept.
    pub(super) even: Option<EvenHalf>,
}

/// The sums of a capture at one point of a run. Later additions do not change them.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    pub(super) sums: Arc<Stored>,
    /// The even half of `sums`, if it is kept.
    pub(super) even: Option<Arc<Half>>,
}

/// A function that returns true if two sums on devices are equal.
pub(super) type Same<'f> = &'f mut dyn FnMut(&dyn OnDevice, &dyn OnDevice) -> bool;

impl CaptureSums {
    fn new(entry: Arc<Stored>, even: Option<EvenHalf>) -> Self {
        Self { entry, before: None, pending: None, even }
    }

    /// Creates empty sums.
    fn empty(accumulate: Accumulate, convergence: bool) -> Self {
        Self::new(Arc::new(Stored::empty(accumulate)), convergence.then(EvenHalf::default))
    }

    /// Prepares an addition of the even half of the batches, or without `even` of the odd half.
    pub(super) fn turn_to(&mut self, even: bool) {
        if self.even.as_ref().is_some_and(|half| half.turns(even)) {
            let all = self.gathered();
            if let Some(half) = &mut self.even {
                half.turn(&all);
            }
        }
    }

    /// Returns the sums of host and device together, and their even half.
    fn frozen(&self) -> Frozen {
        let sums = self.gathered();
        Frozen { even: self.even.as_ref().map(|half| half.half(&sums)), sums }
    }

    /// Returns the sums of host and device together.
    fn gathered(&self) -> Arc<Stored> {
        let Some(pending) = self.pending.as_ref().filter(|pending| !pending.empty) else {
            return Arc::clone(&self.entry);
        };
        let mut entry = Stored::clone(&self.entry);
        if let Some(wide) = entry.widen() {
            wide.add(&pending.sums.read());
        }
        Arc::new(entry)
    }

    /// Prepares an addition of `batch` on a device. Transfers the sums to the host if the last addition was in an
    /// earlier interval of [`BATCHES_AWAY`] batches.
    pub(super) fn bring_home(&mut self, batch: usize) {
        let Some(pending) = &mut self.pending else { return };
        if pending.batch / BATCHES_AWAY != batch / BATCHES_AWAY
            && let Some(wide) = Arc::make_mut(&mut self.entry).widen()
        {
            wide.add(&pending.sums.read());
            pending.sums.clear();
            pending.empty = true;
        }
        pending.batch = batch;
    }

    /// Returns the number of rows per matrix, including those counted on a device.
    fn counts(&self) -> Cow<'_, [i64]> {
        let (home, away) = (self.entry.counts(), self.pending.as_ref().map(|pending| pending.sums.counts()));
        match away {
            Some(away) if !away.is_empty() => home.iter().zip(away).map(|(home, away)| home + away as i64).collect(),
            _ => Cow::Borrowed(home),
        }
    }

    fn same(&self, other: &Self, same: Same<'_>) -> bool {
        self.entry.same_bits(&other.entry)
            && self.even == other.even
            && match (&self.pending, &other.pending) {
                (None, None) => true,
                (Some(own), Some(others)) => same(&*own.sums, &*others.sums),
                _ => false,
            }
    }
}

/// A set of sums, the number of weights that share it, and the batch whose turn it is.
#[derive(Debug, Default)]
struct Capture {
    /// `None` while a lane is adding to them.
    sums: Option<CaptureSums>,
    members: usize,
    /// The batch whose turn it is.
    turn: usize,
    /// Number of uses of the weights in that batch so far.
    seen: usize,
    /// Number of uses after which the turn passes on; `None`: at the end of the batch.
    expected: Option<usize>,
    /// The sums at the end of an earlier batch, for a snapshot.
    kept: Option<Frozen>,
}

#[derive(Debug)]
struct Weight {
    name: String,
    capture: usize,
    /// True if an evaluation has used the weight. Weights from a file may be unused.
    shown: bool,
    /// Number of uses in the first batch.
    first_batch: usize,
}

/// The sums that a weight takes when it parts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Take {
    /// The current sums.
    Now,
    /// The sums before this evaluation's addition.
    Before,
}

/// All captures and weights, each identified by index.
#[derive(Debug)]
pub(super) struct Sharing {
    accumulate: Accumulate,
    /// True if the even half of the batches is kept.
    convergence: bool,
    captures: Vec<Capture>,
    weights: Vec<Weight>,
    by_name: BTreeMap<String, usize>,
    /// The weight that was added to first.
    first: Option<usize>,
    /// True after [`learn`](Self::learn): sharing and the uses per batch are fixed.
    learned: bool,
}

impl Sharing {
    pub(super) fn new(accumulate: Accumulate, convergence: bool) -> Self {
        Self {
            accumulate,
            convergence,
            captures: Vec::new(),
            weights: Vec::new(),
            by_name: BTreeMap::new(),
            first: None,
            learned: false,
        }
    }

    /// Adds a weight with these sums and returns its index.
    pub(super) fn load(&mut self, name: String, frozen: Frozen) -> usize {
        let even = frozen.even.filter(|_| self.convergence).map(EvenHalf::new);
        self.add(name, CaptureSums::new(frozen.sums, even))
    }

    fn add(&mut self, name: String, sums: CaptureSums) -> usize {
        let capture = self.add_capture(sums);
        let weight = self.weights.len();
        self.by_name.insert(name.clone(), weight);
        self.weights.push(Weight { name, capture, shown: false, first_batch: 0 });
        weight
    }

    fn add_capture(&mut self, sums: CaptureSums) -> usize {
        self.captures.push(Capture { sums: Some(sums), members: 1, ..Capture::default() });
        self.captures.len() - 1
    }

    /// Returns the index of the weight with this name, and true if no evaluation has used it before.
    pub(super) fn show(&mut self, name: &str) -> (usize, bool) {
        let weight = match self.by_name.get(name) {
            Some(&weight) => weight,
            None => self.add(name.to_owned(), CaptureSums::empty(self.accumulate, self.convergence)),
        };
        (weight, !std::mem::replace(&mut self.weights[weight].shown, true))
    }

    pub(super) fn name(&self, weight: usize) -> &str {
        &self.weights[weight].name
    }

    pub(super) fn capture_of(&self, weight: usize) -> usize {
        self.weights[weight].capture
    }

    pub(super) fn n_weights(&self) -> usize {
        self.weights.len()
    }

    pub(super) fn is_shared(&self, capture: usize) -> bool {
        self.captures[capture].members > 1
    }

    /// Returns the sums on the host; `None` while a lane is adding to them.
    pub(super) fn entry(&self, capture: usize) -> Option<&Arc<Stored>> {
        self.captures[capture].sums.as_ref().map(|sums| &sums.entry)
    }

    /// Returns the batch that may change the sums of `weight`. Batches below `done` have ended.
    pub(super) fn turn_of(&mut self, weight: usize, done: usize) -> usize {
        let capture = &mut self.captures[self.weights[weight].capture];
        if capture.turn < done {
            capture.turn = done;
            capture.seen = 0;
        }
        capture.turn
    }

    /// Takes out the sums of `weight` until [`put`](Self::put) returns them. With `keep`, keeps the present sums for a
    /// snapshot. It must be the caller's turn.
    pub(super) fn take(&mut self, weight: usize, keep: bool) -> (usize, CaptureSums) {
        self.first.get_or_insert(weight);
        let index = self.weights[weight].capture;
        let capture = &mut self.captures[index];
        let sums = capture.sums.take().unwrap_or_else(|| CaptureSums::empty(self.accumulate, self.convergence));
        if keep && capture.kept.is_none() {
            capture.kept = Some(sums.frozen());
        }
        (index, sums)
    }

    pub(super) fn put(&mut self, capture: usize, sums: CaptureSums) {
        self.captures[capture].sums = Some(sums);
    }

    /// Counts a use of `capture` by the current batch. Returns true if the turn has passed on.
    pub(super) fn pass(&mut self, capture: usize) -> bool {
        self.captures[capture].seen += 1;
        self.settle(capture)
    }

    fn settle(&mut self, capture: usize) -> bool {
        let capture = &mut self.captures[capture];
        let through = capture.expected.is_some_and(|expected| capture.seen >= expected);
        if through {
            capture.turn += 1;
            capture.seen = 0;
        }
        through
    }

    /// Gives `weight`, which the current batch has used `seen` times, a separate capture. It must be the caller's turn.
    /// Returns true if the turn of the old capture has passed on.
    pub(super) fn part(&mut self, weight: usize, take: Take, seen: usize) -> bool {
        let index = self.weights[weight].capture;
        let first_batch = self.weights[weight].first_batch;
        let capture = &mut self.captures[index];
        // The even half belongs to either: it was last changed before the addition that is left out.
        let own = |entry, sums: &CaptureSums| CaptureSums::new(entry, sums.even.clone());
        let sums = match (&capture.sums, take) {
            (None, _) => CaptureSums::empty(self.accumulate, self.convergence),
            (Some(sums), Take::Now) => own(sums.gathered(), sums),
            (Some(sums), Take::Before) => own(Arc::clone(sums.before.as_ref().unwrap_or(&sums.entry)), sums),
        };
        let (turn, expected) = (capture.turn, capture.expected.map(|_| first_batch));
        let kept = capture.kept.clone();
        capture.members -= 1;
        capture.seen = capture.seen.saturating_sub(seen);
        capture.expected = capture.expected.map(|expected| expected.saturating_sub(first_batch));
        let passed = if capture.members == 0 {
            *capture = Capture::default(); // frees the sums; the index stays valid
            false
        } else {
            self.settle(index)
        };
        let own = self.add_capture(sums);
        self.captures[own] = Capture { turn, seen, expected, kept, members: 1, sums: self.captures[own].sums.take() };
        self.weights[weight].capture = own;
        passed
    }

    /// Returns true if part of the sums of `weight` is on a device, which does not keep the sums before the last
    /// addition.
    pub(super) fn is_away(&self, weight: usize) -> bool {
        let capture = &self.captures[self.weights[weight].capture];
        capture.sums.as_ref().is_some_and(|sums| sums.pending.is_some())
    }

    /// Lets `weight` share the capture of `leader` if their sums are equal, and returns true if so. Never after
    /// [`learn`](Self::learn), when lanes may wait for either capture.
    pub(super) fn join(&mut self, weight: usize, leader: usize, same: Same<'_>) -> bool {
        let (own, leader) = (self.weights[weight].capture, self.weights[leader].capture);
        if self.learned || own == leader {
            return false;
        }
        match (&self.captures[own].sums, &self.captures[leader].sums) {
            (Some(own), Some(leader)) if own.same(leader, same) => {}
            _ => return false,
        }
        self.weights[weight].capture = leader;
        self.captures[leader].members += 1;
        self.captures[own] = Capture::default(); // frees the sums; the index stays valid
        true
    }

    /// Stores the number of uses of each weight in the first batch.
    pub(super) fn count_first_batch(&mut self, counts: impl Iterator<Item = usize>) {
        for (weight, count) in self.weights.iter_mut().zip(counts) {
            weight.first_batch = count;
        }
    }

    /// Fixes, after the first batch, the number of uses after which each capture's turn passes on.
    pub(super) fn learn(&mut self) {
        self.learned = true;
        for capture in &mut self.captures {
            capture.expected = (capture.members > 0).then_some(0);
        }
        for weight in &self.weights {
            if let Some(expected) = &mut self.captures[weight.capture].expected {
                *expected += weight.first_batch;
            }
        }
        // The turn of a capture that the first batch did not use passes on at the end of each batch.
        for capture in &mut self.captures {
            capture.expected = capture.expected.filter(|&expected| expected > 0);
        }
    }

    /// Returns true if the weight that was added to first has seen at least as many rows as any other.
    pub(super) fn first_leads(&self) -> bool {
        let most = |capture: usize| self.entry(capture).and_then(|entry| entry.counts().iter().max().copied());
        let Some(first) = self.first else { return false };
        let leads = most(self.weights[first].capture);
        (0..self.captures.len()).all(|capture| most(capture) <= leads)
    }

    /// Returns every weight with its sums, sorted by name; if sums are kept for a snapshot, those. Weights without rows
    /// are omitted.
    pub(super) fn entries(&self) -> Vec<(String, Frozen)> {
        // Gathered once per capture: its weights share one entry, and a device is read once.
        let mut gathered: BTreeMap<usize, Option<Frozen>> = BTreeMap::new();
        let mut entry_of = |capture: usize| {
            let entry = || {
                let Capture { kept, sums, .. } = &self.captures[capture];
                let mut entry = kept.clone().or_else(|| sums.as_ref().map(CaptureSums::frozen))?;
                if matches!(*entry.sums, Stored::Wide(_)) {
                    entry.sums = Arc::new(Stored::F32(entry.sums.entry().into_owned()));
                }
                Some(entry)
            };
            gathered.entry(capture).or_insert_with(entry).clone()
        };
        self.by_name
            .iter()
            .filter_map(|(name, &weight)| {
                let entry = entry_of(self.weights[weight].capture)?;
                (entry.sums.len() > 0).then(|| (name.clone(), entry))
            })
            .collect()
    }

    /// Returns the number of rows per matrix of each weight, except of captures that a lane is adding to.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, Cow<'_, [i64]>)> {
        self.weights.iter().filter_map(|weight| {
            let sums = self.captures[weight.capture].sums.as_ref()?;
            Some((weight.name.as_str(), sums.counts()))
        })
    }

    /// Drops the sums kept for a snapshot.
    pub(super) fn forget_kept(&mut self) {
        for capture in &mut self.captures {
            capture.kept = None;
        }
    }

    /// Returns the number of captures in use.
    #[cfg(test)]
    pub(super) fn n_captures(&self) -> usize {
        self.captures.iter().filter(|capture| capture.members > 0).count()
    }
}
