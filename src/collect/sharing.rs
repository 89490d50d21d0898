//! One set of sums for all weights that read the same input.
//!
//! Query, key and value read one tensor; so do gate and up, and the experts' gate and up. Their sums are equal to the
//! bit, so they are kept once and written out per weight. What shares is learned, not assumed: in the evaluation a
//! weight is first seen in, it has sums of its own; those that read the same tensor and have the same bits afterwards
//! share from then on. Should a graph of another shape part them, the one that parts takes its own copy along, of the
//! sums as they were before the addition it has no share in. So the result is that of separate sums in any case.
//!
//! Lanes evaluate batches side by side, and still each sum takes the batches in order: a capture is one batch's until
//! all its weights have come up in it as often as in the first batch, and then the next one's. Since that is when all
//! have been seen to read the same, nobody parts from sums that a later batch has changed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sums::{Accumulate, OnDevice};

use super::pending::{BATCHES_AWAY, Pending};
use super::stored::Stored;

/// The sums of a capture, which lanes add to.
#[derive(Debug)]
pub(super) struct CaptureSums {
    /// Shared with snapshots, which keep what they have: changing it then copies it.
    pub(super) entry: Arc<Stored>,
    /// As they were before the last addition, if several weights shared them then: one that parts takes these.
    pub(super) before: Option<Arc<Stored>>,
    /// What a device has of them besides: `entry` is then [`Stored::Wide`].
    pub(super) pending: Option<Pending>,
}

/// Compares sums on devices.
pub(super) type Same<'f> = &'f mut dyn FnMut(&dyn OnDevice, &dyn OnDevice) -> bool;

impl CaptureSums {
    fn new(entry: Arc<Stored>) -> Self {
        Self { entry, before: None, pending: None }
    }

    /// All of them, wherever they are.
    fn gathered(&self) -> Arc<Stored> {
        let Some(pending) = &self.pending else { return Arc::clone(&self.entry) };
        let mut entry = Stored::clone(&self.entry);
        if let Some(wide) = entry.widen() {
            wide.add(&pending.sums.read());
        }
        Arc::new(entry)
    }

    /// Before an addition of `batch` on a device: brings home what has been away for long.
    pub(super) fn bring_home(&mut self, batch: usize) {
        let Some(pending) = &mut self.pending else { return };
        if pending.batch / BATCHES_AWAY != batch / BATCHES_AWAY
            && let Some(wide) = Arc::make_mut(&mut self.entry).widen()
        {
            wide.add(&pending.sums.read());
            pending.sums.clear();
        }
        pending.batch = batch;
    }

    /// Rows that each matrix has seen, those counted on a device too.
    fn counts(&self) -> Cow<'_, [i64]> {
        let (home, away) = (self.entry.counts(), self.pending.as_ref().map(|pending| pending.sums.counts()));
        match away {
            Some(away) if !away.is_empty() => home.iter().zip(away).map(|(home, away)| home + away as i64).collect(),
            _ => Cow::Borrowed(home),
        }
    }

    fn same(&self, other: &Self, same: Same<'_>) -> bool {
        self.entry.same_bits(&other.entry)
            && match (&self.pending, &other.pending) {
                (None, None) => true,
                (Some(own), Some(others)) => same(&*own.sums, &*others.sums),
                _ => false,
            }
    }
}

/// Sums, the weights that share them, and whose turn it is.
#[derive(Debug, Default)]
struct Capture {
    /// `None` while a lane is adding to them.
    sums: Option<CaptureSums>,
    members: usize,
    /// The batch whose turn it is.
    turn: usize,
    /// Times the members have come up in that batch, and times they will.
    seen: usize,
    expected: Option<usize>,
    /// The entry as of the end of an earlier batch, for a snapshot.
    kept: Option<Arc<Stored>>,
}

#[derive(Debug)]
struct Weight {
    name: String,
    capture: usize,
    /// Whether an evaluation has shown it; a weight that was loaded from a file may not have been.
    shown: bool,
    /// Times it came up in the first batch.
    first_batch: usize,
}

/// Which sums a weight takes along when it parts: as they are, or as they were before this evaluation's addition.
#[derive(Debug, Clone, Copy)]
pub(super) enum Take {
    Now,
    Before,
}

/// All captures and who shares them. Weights and captures go by their index.
#[derive(Debug)]
pub(super) struct Sharing {
    accumulate: Accumulate,
    captures: Vec<Capture>,
    weights: Vec<Weight>,
    by_name: BTreeMap<String, usize>,
    /// The weight whose input was the first to be added.
    first: Option<usize>,
    /// Whether the first batch is through: who shares and how often each comes up is known.
    learned: bool,
}

impl Sharing {
    pub(super) fn new(accumulate: Accumulate) -> Self {
        Self {
            accumulate,
            captures: Vec::new(),
            weights: Vec::new(),
            by_name: BTreeMap::new(),
            first: None,
            learned: false,
        }
    }

    /// Starts `weight` from sums collected earlier.
    pub(super) fn load(&mut self, name: String, entry: Arc<Stored>) -> usize {
        let capture = self.add_capture(entry);
        let weight = self.weights.len();
        self.by_name.insert(name.clone(), weight);
        self.weights.push(Weight { name, capture, shown: false, first_batch: 0 });
        weight
    }

    fn add_capture(&mut self, entry: Arc<Stored>) -> usize {
        self.captures.push(Capture { sums: Some(CaptureSums::new(entry)), members: 1, ..Capture::default() });
        self.captures.len() - 1
    }

    /// The weight of that name, and whether this is the first time it is shown.
    pub(super) fn show(&mut self, name: &str) -> (usize, bool) {
        let weight = match self.by_name.get(name) {
            Some(&weight) => weight,
            None => self.load(name.to_owned(), Arc::new(Stored::empty(self.accumulate))),
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

    /// The sums as last left; `None` while a lane is adding to them.
    pub(super) fn entry(&self, capture: usize) -> Option<&Arc<Stored>> {
        self.captures[capture].sums.as_ref().map(|sums| &sums.entry)
    }

    /// The batch that may change the sums of `weight`, where those below `done` have ended.
    pub(super) fn turn_of(&mut self, weight: usize, done: usize) -> usize {
        let capture = &mut self.captures[self.weights[weight].capture];
        if capture.turn < done {
            capture.turn = done;
            capture.seen = 0;
        }
        capture.turn
    }

    /// Hands the sums out, to be given back with [`put`](Self::put). `keep`: keep them for a snapshot before they
    /// change. The caller has its turn.
    pub(super) fn take(&mut self, weight: usize, keep: bool) -> (usize, CaptureSums) {
        self.first.get_or_insert(weight);
        let index = self.weights[weight].capture;
        let capture = &mut self.captures[index];
        let sums = capture.sums.take().unwrap_or_else(|| CaptureSums::new(Arc::new(Stored::empty(self.accumulate))));
        if keep && capture.kept.is_none() {
            capture.kept = Some(sums.gathered());
        }
        (index, sums)
    }

    pub(super) fn put(&mut self, capture: usize, sums: CaptureSums) {
        self.captures[capture].sums = Some(sums);
    }

    /// A member of `capture` has come up and is done with. Whether the turn has passed on.
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

    /// Gives `weight`, which has come up `seen` times in this batch, sums of its own. The caller has its turn.
    /// Whether the turn of those it leaves has passed on.
    pub(super) fn part(&mut self, weight: usize, take: Take, seen: usize) -> bool {
        let index = self.weights[weight].capture;
        let first_batch = self.weights[weight].first_batch;
        let capture = &mut self.captures[index];
        let entry = match (&capture.sums, take) {
            (None, _) => Arc::new(Stored::empty(self.accumulate)),
            (Some(sums), Take::Now) => sums.gathered(),
            (Some(sums), Take::Before) => Arc::clone(sums.before.as_ref().unwrap_or(&sums.entry)),
        };
        let (turn, expected) = (capture.turn, capture.expected.map(|_| first_batch));
        let kept = capture.kept.clone();
        capture.members -= 1;
        capture.seen = capture.seen.saturating_sub(seen);
        capture.expected = capture.expected.map(|expected| expected.saturating_sub(first_batch));
        let passed = if capture.members == 0 {
            *capture = Capture::default(); // frees the sums; the place stays
            false
        } else {
            self.settle(index)
        };
        let own = self.add_capture(entry);
        self.captures[own] = Capture { turn, seen, expected, kept, members: 1, sums: self.captures[own].sums.take() };
        self.weights[weight].capture = own;
        passed
    }

    /// Whether the sums of `weight` are on a device in part: as they were before an addition they cannot be had.
    pub(super) fn is_away(&self, weight: usize) -> bool {
        let capture = &self.captures[self.weights[weight].capture];
        capture.sums.as_ref().is_some_and(|sums| sums.pending.is_some())
    }

    /// Has `weight` share `leader`'s capture if both hold the same. Not once lanes may wait for either.
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
        self.captures[own] = Capture::default(); // frees the sums; the place stays
        true
    }

    /// Takes note of how often each weight came up in the first batch.
    pub(super) fn count_first_batch(&mut self, counts: impl Iterator<Item = usize>) {
        for (weight, count) in self.weights.iter_mut().zip(counts) {
            weight.first_batch = count;
        }
    }

    /// The first batch is through.
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
        // A weight that did not come up is not waited for, and if it does later, its batches take turns whole.
        for capture in &mut self.captures {
            capture.expected = capture.expected.filter(|&expected| expected > 0);
        }
    }

    /// Whether the weight that is added to first has seen at least as many rows as any other.
    pub(super) fn first_leads(&self) -> bool {
        let most = |capture: usize| self.entry(capture).and_then(|entry| entry.counts().iter().max().copied());
        let Some(first) = self.first else { return false };
        let leads = most(self.weights[first].capture);
        (0..self.captures.len()).all(|capture| most(capture) <= leads)
    }

    /// Every weight with its sums, those kept for a snapshot if they were, by name. Weights of which nothing came in
    /// are left out.
    pub(super) fn entries(&self) -> Vec<(String, Arc<Stored>)> {
        // Once for all that share: those of devices are fetched, and each is to be one entry.
        let mut gathered: BTreeMap<usize, Option<Arc<Stored>>> = BTreeMap::new();
        let mut entry_of = |capture: usize| {
            let entry = || {
                let Capture { kept, sums, .. } = &self.captures[capture];
                let entry = kept.clone().or_else(|| sums.as_ref().map(CaptureSums::gathered))?;
                let wide = matches!(*entry, Stored::Wide(_));
                Some(if wide { Arc::new(Stored::F32(entry.entry().into_owned())) } else { entry })
            };
            gathered.entry(capture).or_insert_with(entry).clone()
        };
        self.by_name
            .iter()
            .filter_map(|(name, &weight)| {
                let entry = entry_of(self.weights[weight].capture)?;
                (entry.len() > 0).then(|| (name.clone(), entry))
            })
            .collect()
    }

    /// Weights with the rows that each of their matrices has seen, but for those that a lane is adding to.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, Cow<'_, [i64]>)> {
        self.weights.iter().filter_map(|weight| {
            let sums = self.captures[weight.capture].sums.as_ref()?;
            Some((weight.name.as_str(), sums.counts()))
        })
    }

    /// The snapshot is taken.
    pub(super) fn forget_kept(&mut self) {
        for capture in &mut self.captures {
            capture.kept = None;
        }
    }

    /// Sets of sums in use.
    #[cfg(test)]
    pub(super) fn n_captures(&self) -> usize {
        self.captures.iter().filter(|capture| capture.members > 0).count()
    }
}
