//! The state that lanes share, and their turns.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::chunks::ChunkClock;
use super::collector::{CollectorOptions, Snapshot};
use super::error::Error;
use super::sharing::Sharing;
use super::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: CollectorOptions,
    state: Mutex<State>,
    /// Notified whenever a turn passes on.
    turns: Condvar,
}

impl Shared {
    pub(super) fn new(options: &CollectorOptions) -> Self {
        Self { options: options.clone(), state: Mutex::new(State::new(options)), turns: Condvar::new() }
    }

    /// Returns an empty state.
    pub(super) fn fresh_state(&self) -> State {
        State::new(&self.options)
    }

    /// Locks the state, even after a panic in a lane, which stops all other lanes.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.turns.notify_all();
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.notify();
    }

    /// Returns a guard that stops all lanes if it is dropped during a panic. Otherwise they would wait for the lane
    /// that panicked.
    pub(super) fn stop_on_panic(self: &Arc<Self>) -> StopOnPanic {
        StopOnPanic(Arc::clone(self))
    }

    /// Waits until `batch` may change the sums of `weight`.
    ///
    /// The lowest batch that has not ended never waits for another, so there is no deadlock.
    pub(super) fn wait_for_turn<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        weight: usize,
        batch: usize,
    ) -> Result<MutexGuard<'s, State>, Error> {
        loop {
            if state.stopped {
                return Err(Error::Stopped);
            }
            let done = state.done;
            let held = state.wait_after.is_some_and(|after| batch > after);
            let turn = state.sharing.turn_of(weight, done);
            match turn.cmp(&batch) {
                std::cmp::Ordering::Equal if !held => return Ok(state),
                std::cmp::Ordering::Greater => {
                    return Err(Error::Order { weight: state.sharing.name(weight).to_owned() });
                }
                _ => state = self.turns.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// See [`Shared::stop_on_panic`].
pub(crate) struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) sharing: Sharing,
    pub(super) clock: ChunkClock,
    pub(super) too_few_rows: u64,
    /// All batches below this one have ended.
    done: usize,
    /// Batches from `done` on that have ended.
    ended: BTreeSet<usize>,
    /// One above the highest batch that has begun.
    begun: usize,
    stopped: bool,
    /// The batch after which a snapshot is taken: later batches keep the sums before they change them.
    pub(super) keep_after: Option<usize>,
    /// The next batch after which a snapshot is due. Later batches wait until the first snapshot is taken.
    wait_after: Option<usize>,
    pub(super) snapshots: Vec<Snapshot>,
}

impl State {
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn new(options: &CollectorOptions) -> Self {
        Self {
            sharing: Sharing::new(options.accumulate, options.convergence),
            clock: ChunkClock::new(options.chunk_size, options.output_every, options.copy_every),
            too_few_rows: 0,
            done: 0,
            ended: BTreeSet::new(),
            begun: 0,
            stopped: false,
            keep_after: None,
            wait_after: None,
            snapshots: Vec::new(),
        }
    }

    /// Updates the number of chunks after `batch` has added to `capture`.
    ///
    /// If batches overlap, the first input of the graph has the most rows. What is due after a batch is therefore known
    /// before a later batch adds anything.
    pub(super) fn saw(&mut self, capture: usize, batch: usize) {
        let before = self.clock.due.len();
        let Some(entry) = self.sharing.entry(capture) else { return };
        for &rows in entry.counts() {
            self.clock.saw(rows, batch);
        }
        if self.clock.due.len() > before {
            match self.keep_after {
                None => self.keep_after = Some(batch),
                // A requested snapshot of a later batch gives way; the request is repeated. No batch after this one has
                // added anything yet.
                Some(first) if first > batch => self.keep_after = Some(batch),
                Some(first) if first < batch && self.wait_after.is_none() => self.wait_after = Some(batch),
                Some(_) => {}
            }
        }
    }

    /// Lets the turn of an input pass on after its last use in a batch, instead of at the end of the batch.
    ///
    /// Has no effect if the first input of the graph does not have the most rows: it would be known too late what is
    /// due.
    pub(super) fn overlap(&mut self) {
        if self.done > 0 && self.sharing.first_leads() {
            self.sharing.learn();
        }
    }

    pub(super) fn begin_batch(&mut self, batch: usize) {
        self.begun = self.begun.max(batch + 1);
    }

    /// Takes a snapshot at the end of the batches that have begun, unless one is pending.
    pub(super) fn request_snapshot(&mut self) {
        if self.keep_after.is_some() {
            return;
        }
        if self.begun > self.done {
            self.keep_after = Some(self.begun - 1);
        } else {
            self.snapshots.push(self.snapshot_now());
        }
    }

    pub(super) fn end_batch(&mut self, batch: usize) {
        self.ended.insert(batch);
        while self.ended.remove(&self.done) {
            let ended = self.done;
            self.done += 1;
            let (due, chunks) = self.clock.end_batch(ended);
            if self.keep_after == Some(ended) {
                self.snapshots.push(Snapshot { due, chunks, batch: ended, entries: self.sharing.entries() });
                self.sharing.forget_kept();
                self.keep_after = self.wait_after.take();
            }
        }
    }

    pub(super) fn snapshot_now(&self) -> Snapshot {
        Snapshot {
            due: Vec::new(),
            chunks: self.clock.chunks,
            batch: self.done.saturating_sub(1),
            entries: self.sharing.entries(),
        }
    }
}
