use std::sync::Arc;

use crate::imatrix::{Entry, Imatrix};

use super::chunks::{ChunkClock, Due};
use super::lane::Lane;
use super::rule::Rule;
use super::state::{Shared, State};

/// What a [`Collector`] collects and when it wants to be saved.
#[derive(Debug, Clone)]
pub struct CollectorOptions {
    /// Which products are collected.
    pub rule: Rule,
    /// Tokens a chunk.
    pub chunk_size: i32,
    /// The output is due every so many chunks; 0: never before the end.
    pub output_every: i32,
    /// A numbered copy is due every so many chunks; 0: never.
    pub copy_every: i32,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        Self { rule: Rule::default(), chunk_size: 512, output_every: 10, copy_every: 0 }
    }
}

/// The sums of all weights' inputs.
///
/// Products are brought in by [`Lane`]s, of which there is one for each context that evaluates the model. Lanes take
/// turns, so that every sum is that of the batches in order, whichever lane evaluated them and however far ahead of the
/// others it was.
#[derive(Debug, Clone)]
pub struct Collector {
    pub(super) shared: Arc<Shared>,
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(options: &CollectorOptions) -> Self {
        let clock = ChunkClock::new(options.chunk_size, options.output_every, options.copy_every);
        Self { shared: Arc::new(Shared::new(options.rule, State::new(clock))) }
    }

    /// Starts from sums collected earlier: they are added to.
    pub fn continue_from(&mut self, imatrix: &Imatrix) {
        let mut state = self.shared.lock();
        for (name, entry) in &imatrix.entries {
            state.sharing.load(name.clone(), entry.clone());
        }
        state.clock.start_from(imatrix.chunk_count);
    }

    /// A way in, for one context.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::new(Arc::clone(&self.shared))
    }

    /// What became due in batches up to `batch` since the last call, in order, each with the sums as they were after
    /// the batch it became due in: no chunk is in there in part.
    #[must_use]
    pub fn take_due(&self, batch: usize) -> Vec<Snapshot> {
        let mut state = self.shared.lock();
        let (taken, left) = std::mem::take(&mut state.snapshots).into_iter().partition(|s| s.batch <= batch);
        state.snapshots = left;
        taken
    }

    /// The sums as they are. What a lane is in the midst of is in there in part, so let all batches end before.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot_now()
    }

    /// Releases lanes that wait for their turn: they fail. For when a lane will not come to its batch's end.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Lets lanes evaluate batches side by side from here on: an input is the next batch's as soon as it has come up as
    /// often as in the first batch, which must have ended. From then on every graph is to be of that shape.
    ///
    /// Batches go on waiting for each other's end where earlier sums that were loaded are of unequal length.
    pub fn overlap(&self) {
        self.shared.lock().overlap();
    }

    /// Whether the input of the output matrix is collected.
    #[must_use]
    pub fn collects_output(&self) -> bool {
        self.shared.rule.process_output
    }

    /// Chunks so far, those loaded included.
    #[must_use]
    pub fn chunks(&self) -> i32 {
        self.shared.lock().clock.chunks
    }

    /// Inputs that were not collected for want of rows: see [`Rule::min_rows`].
    #[must_use]
    pub fn inputs_of_too_few_rows(&self) -> u64 {
        self.shared.lock().too_few_rows
    }
}

/// Sums at one moment. What is collected later does not change them.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What they are to be saved as.
    pub due: Vec<Due>,
    /// Chunks so far, those loaded included.
    pub chunks: i32,
    /// The last batch in there.
    pub(super) batch: usize,
    pub(super) entries: Vec<(String, Arc<Entry>)>,
}

impl Snapshot {
    /// Every weight with its sums, by name. Weights of which nothing came in are left out.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.as_ref()))
    }

    /// The sums of `weight`.
    #[must_use]
    pub fn get(&self, weight: &str) -> Option<&Entry> {
        let place = self.entries.binary_search_by(|(name, _)| name.as_str().cmp(weight)).ok()?;
        Some(&self.entries[place].1)
    }
}
