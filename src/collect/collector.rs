use std::borrow::Cow;
use std::sync::Arc;

use crate::imatrix::{Entry, Imatrix};
use crate::options::SumOn;
use crate::sums::Accumulate;

use super::chunks::Due;
use super::error::Error;
use super::experts::Experts;
use super::lane::Lane;
use super::rule::Rule;
use super::state::{Shared, StopOnPanic};
use super::stored::Stored;

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
    /// How sums are kept.
    pub accumulate: Accumulate,
    /// Where activations are summed. Exact sums are always the host's.
    pub sum_on: SumOn,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        Self {
            rule: Rule::default(),
            chunk_size: 512,
            output_every: 10,
            copy_every: 0,
            accumulate: Accumulate::F32,
            sum_on: SumOn::Auto,
        }
    }
}

/// The sums of all weights' inputs.
///
/// Products are brought in by [`Lane`]s, of which there is one for each context that evaluates the model. Lanes take
/// turns, so that every sum is that of the batches in order, whichever lane evaluated them and however far ahead of the
/// others it was. [`finish`](Self::finish) gives the matrix.
///
/// ```
/// use llama_imatrix::collect::{Kind, Product, Rows};
/// use llama_imatrix::{Collector, CollectorOptions};
///
/// let collector = Collector::new(&CollectorOptions { chunk_size: 16, ..CollectorOptions::default() });
/// let mut lane = collector.lane(); // with llama.cpp, a context's observer, which does what follows
/// let product = Product {
///     kind: Kind::Dense,
///     weight: "blk.0.ffn_up.weight",
///     weight_ne: [2, 8, 1, 1],
///     input: 1,
///     input_ne: [2, 16, 1, 1],
///     input_is_f32: true,
///     ids: 0,
/// };
/// lane.begin_node(1);
/// assert!(lane.asks(&product));
/// let data: Vec<f32> = [1.0, -2.0].repeat(16);
/// lane.add(&product, &Rows { data: &data, ne: [2, 16, 1, 1], stride: [1, 2, 32, 32] }, None)?;
/// let imatrix = collector.finish()?;
/// let entry = imatrix.get("blk.0.ffn_up.weight").expect("collected");
/// assert_eq!((&entry.sum2[..], entry.activations()), (&[16.0, 64.0][..], &[16.0, -32.0][..]));
/// assert_eq!((&entry.counts[..], imatrix.chunk_count), (&[16][..], 1));
/// # Ok::<(), llama_imatrix::collect::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Collector {
    pub(super) shared: Arc<Shared>,
}

/// Sums to start from.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Chunks in them.
    pub chunks: i32,
    entries: Vec<(String, Arc<Stored>)>,
}

impl Earlier {
    /// None.
    #[must_use]
    pub fn nothing() -> Self {
        Self { chunks: 0, entries: Vec::new() }
    }

    /// Those of a matrix.
    ///
    /// # Errors
    /// [`Error::Earlier`] where exact sums are to be added to what they cannot hold.
    pub fn from_imatrix(imatrix: &Imatrix, accumulate: Accumulate) -> Result<Self, Error> {
        let stored = |(name, entry): (&String, &Entry)| match Stored::from_entry(entry.clone(), accumulate) {
            Ok(stored) => Ok((name.clone(), Arc::new(stored))),
            Err(source) => Err(Error::Earlier { weight: name.clone(), source }),
        };
        let entries = imatrix.entries.iter().map(stored).collect::<Result<_, _>>()?;
        Ok(Self { chunks: imatrix.chunk_count, entries })
    }

    /// Those of a moment of a run. Nothing is copied.
    #[must_use]
    pub(crate) fn from_snapshot(snapshot: &Snapshot) -> Self {
        Self { chunks: snapshot.chunks, entries: snapshot.entries.clone() }
    }

    /// Creates them from sets of sums, each with the weights that share it.
    pub(crate) fn from_groups(groups: impl IntoIterator<Item = (Vec<String>, Stored)>, chunks: i32) -> Self {
        let mut entries = Vec::new();
        for (weights, stored) in groups {
            let stored = Arc::new(stored);
            entries.extend(weights.into_iter().map(|weight| (weight, Arc::clone(&stored))));
        }
        Self { chunks, entries }
    }
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(options: &CollectorOptions) -> Self {
        Self { shared: Arc::new(Shared::new(options)) }
    }

    /// Starts anew from sums collected earlier: they are added to. Lanes so far are not to be used any more.
    pub fn start_from(&self, earlier: Earlier) {
        let mut state = self.shared.fresh_state();
        for (name, entry) in earlier.entries {
            state.sharing.load(name, entry);
        }
        state.clock.start_from(earlier.chunks);
        *self.shared.lock() = state;
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

    /// Has a snapshot taken once the batches that have begun have ended: [`take_due`](Self::take_due) brings it, with
    /// nothing due.
    pub fn request_snapshot(&self) {
        self.shared.lock().request_snapshot();
    }

    /// The sums as they are. What a lane is in the midst of is in there in part, so let all batches end before.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot_now()
    }

    /// The matrix of all that was collected, for when every decode has ended. Collecting may go on after it.
    ///
    /// Its [`datasets`](Imatrix::datasets) are empty: what the rows were is known to the caller alone.
    ///
    /// # Errors
    /// [`Error::Stopped`] where a lane has failed: its sums are not to be used.
    pub fn finish(&self) -> Result<Imatrix, Error> {
        if self.shared.lock().is_stopped() {
            return Err(Error::Stopped);
        }
        Ok(Imatrix { chunk_size: self.shared.options.chunk_size, ..self.snapshot().to_imatrix() })
    }

    /// Releases lanes that wait for their turn: they fail. For when a lane will not come to its batch's end.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Returns a guard that [stops](Self::stop) all lanes if it is dropped by a panic.
    pub(crate) fn stop_on_panic(&self) -> StopOnPanic {
        self.shared.stop_on_panic()
    }

    /// Lets lanes evaluate batches side by side from here on: an input is the next batch's as soon as it has come up as
    /// often as in the first batch, which must have ended. From then on every graph is to be of that shape.
    ///
    /// Batches go on waiting for each other's end where earlier sums that were loaded are of unequal length.
    pub fn overlap(&self) {
        self.shared.lock().overlap();
    }

    /// Chunks so far, those loaded included.
    #[must_use]
    pub fn chunks(&self) -> i32 {
        self.shared.lock().clock.chunks
    }

    /// How the tokens so far have spread over the experts. `None` where there are none. A lane that is in the midst of
    /// adding to a layer's experts leaves them out.
    #[must_use]
    pub fn experts(&self) -> Option<Experts> {
        Experts::new(self.shared.lock().sharing.counts())
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
    pub(crate) batch: usize,
    pub(super) entries: Vec<(String, Arc<Stored>)>,
}

impl Snapshot {
    /// Every weight with its sums, exact ones rounded, by name. Weights of which nothing came in are left out.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Cow<'_, Entry>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.entry()))
    }

    /// The sums of `weight`, exact ones rounded.
    #[cfg(test)]
    pub(crate) fn get(&self, weight: &str) -> Option<Cow<'_, Entry>> {
        let place = self.entries.binary_search_by(|(name, _)| name.as_str().cmp(weight)).ok()?;
        Some(self.entries[place].1.entry())
    }

    /// The matrix of these sums, exact ones rounded. It says how many chunks they are; how large those are, and of what,
    /// is the caller's to add.
    #[must_use]
    pub fn to_imatrix(&self) -> Imatrix {
        let entries = self.entries().map(|(name, entry)| (name.to_owned(), entry.into_owned())).collect();
        Imatrix { entries, chunk_count: self.chunks, ..Imatrix::default() }
    }

    /// Returns every weight with its sums in full precision. Weights that share sums have the same reference.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.entries.iter().map(|(name, stored)| (name.as_str(), &**stored))
    }
}
