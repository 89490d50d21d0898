use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::convergence::{Convergence, WeightAgreement};
use crate::imatrix::{Entry, Imatrix};
use crate::options::SumOn;
use crate::sums::{Accumulate, Half};

use super::chunks::Due;
use super::error::Error;
use super::experts::Experts;
use super::lane::Lane;
use super::rule::Rule;
use super::sharing::Frozen;
use super::state::{Shared, StopOnPanic};
use super::stored::Stored;

/// Options of a [`Collector`].
#[derive(Debug, Clone)]
pub struct CollectorOptions {
    /// Selects the products whose inputs are collected.
    pub rule: Rule,
    /// Tokens per chunk.
    pub chunk_size: i32,
    /// Number of chunks between two saves of the output; 0: only at the end.
    pub output_every: i32,
    /// Number of chunks between two numbered copies; 0: none.
    pub copy_every: i32,
    /// How sums are added up.
    pub accumulate: Accumulate,
    /// Where activations are summed. Exact sums are always computed on the host.
    pub sum_on: SumOn,
    /// Also keep the sums of squares of the even half of the batches, for [`Snapshot::convergence`]. They take as much
    /// memory as f32 sums do.
    pub convergence: bool,
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
            convergence: false,
        }
    }
}

/// Collects the sums of all weights' inputs.
///
/// Each context that evaluates the model adds through a [`Lane`]. Lanes wait for their turn, so every sum takes the
/// batches in order, whichever lane evaluates them. [`finish`](Self::finish) returns the matrix.
///
/// ```
/// use llama_imatrix::collect::{Kind, Product, Rows};
/// use llama_imatrix::{Collector, CollectorOptions};
///
/// let collector = Collector::new(&CollectorOptions { chunk_size: 16, ..CollectorOptions::default() });
/// let mut lane = collector.lane(); // with llama.cpp, a context's observer, which makes the following calls
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
/// let entry = imatrix.get("blk.0.ffn_up.weight").expect("the weight was collected");
/// assert_eq!((&entry.sum2[..], entry.activations()), (&[16.0, 64.0][..], &[16.0, -32.0][..]));
/// assert_eq!((&entry.counts[..], imatrix.chunk_count), (&[16][..], 1));
/// # Ok::<(), llama_imatrix::collect::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Collector {
    pub(super) shared: Arc<Shared>,
}

/// Earlier sums that a run starts from.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Number of chunks in the sums.
    pub chunks: i32,
    entries: Vec<(String, Frozen)>,
}

impl Earlier {
    /// Creates empty sums.
    #[must_use]
    pub fn nothing() -> Self {
        Self { chunks: 0, entries: Vec::new() }
    }

    /// Creates the sums of a matrix.
    ///
    /// # Errors
    /// [`Error::Earlier`] if a sum cannot be converted to an exact one: it is not finite, too large, or a negative sum
    /// of squares.
    pub fn from_imatrix(imatrix: &Imatrix, accumulate: Accumulate) -> Result<Self, Error> {
        let stored = |(name, entry): (&String, &Entry)| match Stored::from_entry(entry.clone(), accumulate) {
            Ok(stored) => Ok((name.clone(), Frozen { sums: Arc::new(stored), even: None })),
            Err(source) => Err(Error::Earlier { weight: name.clone(), source }),
        };
        let entries = imatrix.entries.iter().map(stored).collect::<Result<_, _>>()?;
        Ok(Self { chunks: imatrix.chunk_count, entries })
    }

    /// Creates the sums of a snapshot without copying them.
    #[must_use]
    pub(crate) fn from_snapshot(snapshot: &Snapshot) -> Self {
        Self { chunks: snapshot.chunks, entries: snapshot.entries.clone() }
    }

    /// Creates earlier sums from sets of sums and their even halves, each with the weights that share it.
    pub(crate) fn from_groups(
        groups: impl IntoIterator<Item = (Vec<String>, Stored, Option<Half>)>,
        chunks: i32,
    ) -> Self {
        let mut entries = Vec::new();
        for (weights, stored, even) in groups {
            let frozen = Frozen { sums: Arc::new(stored), even: even.map(Arc::new) };
            entries.extend(weights.into_iter().map(|weight| (weight, frozen.clone())));
        }
        Self { chunks, entries }
    }

    /// Returns true if there are no sums, or if the even half of all of them is known.
    #[must_use]
    pub fn has_halves(&self) -> bool {
        self.entries.iter().all(|(_, frozen)| frozen.even.is_some())
    }
}

impl Collector {
    /// Creates an empty collector.
    #[must_use]
    pub fn new(options: &CollectorOptions) -> Self {
        Self { shared: Arc::new(Shared::new(options)) }
    }

    /// Replaces all sums by earlier ones. Existing lanes must not be used afterwards.
    pub fn start_from(&self, earlier: Earlier) {
        let mut state = self.shared.fresh_state();
        for (name, entry) in earlier.entries {
            state.sharing.load(name, entry);
        }
        state.clock.start_from(earlier.chunks);
        *self.shared.lock() = state;
    }

    /// Creates a lane for one context.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::new(Arc::clone(&self.shared))
    }

    /// Removes and returns the snapshots of batches up to `batch`, in order. Each has the sums at the end of its batch,
    /// so it contains no chunk in part.
    #[must_use]
    pub fn take_due(&self, batch: usize) -> Vec<Snapshot> {
        let mut state = self.shared.lock();
        let (taken, left) = std::mem::take(&mut state.snapshots).into_iter().partition(|s| s.batch <= batch);
        state.snapshots = left;
        taken
    }

    /// Requests a snapshot at the end of the batches that have begun; its `due` is empty. Does nothing if another
    /// snapshot is pending. [`take_due`](Self::take_due) returns it.
    pub fn request_snapshot(&self) {
        self.shared.lock().request_snapshot();
    }

    /// Returns the current sums. All batches should have ended: one that has not is included in part.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot_now()
    }

    /// Returns the matrix of everything collected. Every decode must have ended; collecting may continue afterwards.
    ///
    /// The [`datasets`](Imatrix::datasets) are empty: the caller sets them.
    ///
    /// # Errors
    /// [`Error::Stopped`] if a lane has failed: the sums must not be used.
    pub fn finish(&self) -> Result<Imatrix, Error> {
        if self.shared.lock().is_stopped() {
            return Err(Error::Stopped);
        }
        Ok(Imatrix { chunk_size: self.shared.options.chunk_size, ..self.snapshot().to_imatrix() })
    }

    /// Stops all lanes: those that wait for their turn return [`Error::Stopped`], and so does [`finish`](Self::finish).
    /// Must be called if a lane cannot reach the end of its batch.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Returns a guard that [stops](Self::stop) all lanes if it is dropped during a panic.
    pub(crate) fn stop_on_panic(&self) -> StopOnPanic {
        self.shared.stop_on_panic()
    }

    /// Allows batches to overlap: the next batch may add to an input after the current batch has used it as often as
    /// the first batch did. The first batch must have ended. A later batch that uses a weight more often may fail with
    /// [`Error::Order`].
    ///
    /// Has no effect if another weight has seen more rows than the first weight of the graph, as with earlier sums of
    /// different row counts: each batch then waits for the end of the previous one.
    pub fn overlap(&self) {
        self.shared.lock().overlap();
    }

    /// Returns the number of chunks so far, including those of earlier sums.
    #[must_use]
    pub fn chunks(&self) -> i32 {
        self.shared.lock().clock.chunks
    }

    /// Returns how the tokens so far are distributed over the experts; `None` if there are no experts. Omits the sums
    /// that a lane is adding to at this moment.
    #[must_use]
    pub fn experts(&self) -> Option<Experts> {
        Experts::new(self.shared.lock().sharing.counts())
    }

    /// Returns the number of inputs that were not collected because they have fewer rows than [`Rule::min_rows`].
    #[must_use]
    pub fn inputs_of_too_few_rows(&self) -> u64 {
        self.shared.lock().too_few_rows
    }
}

/// The sums at one point of a run. Later additions do not change them.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Files that are due with these sums.
    pub due: Vec<Due>,
    /// Number of chunks so far, including those of earlier sums.
    pub chunks: i32,
    /// Index of the last batch in the sums.
    pub(crate) batch: usize,
    pub(super) entries: Vec<(String, Frozen)>,
}

impl Snapshot {
    /// Returns every weight with its sums, sorted by name; exact sums are rounded. Weights without rows are omitted.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Cow<'_, Entry>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.sums.entry()))
    }

    /// Returns the sums of `weight`; exact sums are rounded.
    #[cfg(test)]
    pub(crate) fn get(&self, weight: &str) -> Option<Cow<'_, Entry>> {
        let place = self.entries.binary_search_by(|(name, _)| name.as_str().cmp(weight)).ok()?;
        Some(self.entries[place].1.sums.entry())
    }

    /// Returns the matrix of these sums; exact sums are rounded. The caller sets the chunk size and the datasets.
    #[must_use]
    pub fn to_imatrix(&self) -> Imatrix {
        let entries = self.entries().map(|(name, entry)| (name.to_owned(), entry.into_owned())).collect();
        Imatrix { entries, chunk_count: self.chunks, ..Imatrix::default() }
    }

    /// Compares the halves of the batches so far, on all CPUs. `None` unless [`CollectorOptions::convergence`] was set and
    /// the halves of earlier sums are known.
    #[must_use]
    pub fn convergence(&self) -> Option<Convergence> {
        // Weights that share sums agree equally. Exact sums are rounded one after the other, not all at once.
        let mut places: BTreeMap<*const Stored, usize> = BTreeMap::new();
        let mut distinct: Vec<(&Stored, &Half)> = Vec::new();
        let mut weights = Vec::new();
        for (name, Frozen { sums, even }) in &self.entries {
            let even = even.as_deref()?;
            let place = *places.entry(Arc::as_ptr(sums)).or_insert(distinct.len());
            if place == distinct.len() {
                distinct.push((sums, even));
            }
            weights.push((name, place));
        }
        let measure = |&(sums, even): &(&Stored, &Half)| WeightAgreement::new("", &sums.entry(), even);
        let measured: Vec<WeightAgreement> = distinct.par_iter().map(measure).collect();
        let of = |(name, place): (&String, usize)| WeightAgreement { weight: name.clone(), ..measured[place].clone() };
        let weights: Vec<WeightAgreement> = weights.into_iter().map(of).collect();
        (!weights.is_empty()).then_some(Convergence { weights })
    }

    /// Returns every weight with its sums in full precision and their even half. Weights that share sums have the same
    /// references.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&str, &Stored, Option<&Half>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &*entry.sums, entry.even.as_deref()))
    }
}
