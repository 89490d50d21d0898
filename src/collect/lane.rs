use std::sync::Arc;

use super::collector::Collector;
use super::error::Error;
use super::evaluation::Evaluation;
use super::product::{Ids, Product, Rows};
use super::sharing::Same;
use super::state::Shared;
#[cfg(feature = "llama")]
use crate::options::SumOn;
#[cfg(feature = "llama")]
use crate::sums::Accumulate;
use crate::sums::OnDevice;

/// The products of one context on their way into a [`Collector`].
///
/// The graphs that a lane evaluates between [`begin_batch`](Self::begin_batch) and [`end_batch`](Self::end_batch) are
/// one batch. Each node of a graph is announced with [`begin_node`](Self::begin_node); for those that are products,
/// [`asks`](Self::asks) says whether the input is needed, and [`add`](Self::add) takes it, waiting until the batches
/// before have added theirs.
///
/// A single context that saves nothing in between needs no batches.
#[derive(Debug)]
pub struct Lane {
    pub(super) evaluation: Evaluation,
    #[cfg(feature = "llama")]
    pub(super) fetched: super::observe::Fetched,
    /// What sums on devices.
    #[cfg(feature = "llama")]
    pub(super) devices: crate::llama::DeviceSums,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            evaluation: Evaluation::new(shared),
            #[cfg(feature = "llama")]
            fetched: super::observe::Fetched::default(),
            #[cfg(feature = "llama")]
            devices: crate::llama::DeviceSums::default(),
        }
    }

    /// Returns the collector that this lane adds to.
    #[must_use]
    pub(crate) fn collector(&self) -> Collector {
        Collector { shared: Arc::clone(&self.evaluation.shared) }
    }

    /// Where activations are summed. Exact sums are always the host's.
    #[cfg(feature = "llama")]
    pub(super) fn sum_on(&self) -> SumOn {
        let options = &self.evaluation.shared.options;
        if options.accumulate == Accumulate::F64 { SumOn::Host } else { options.sum_on }
    }

    /// Begins batch `batch`, counted from 0. Every batch belongs to one lane, and none is left out.
    pub fn begin_batch(&mut self, batch: usize) {
        self.end_evaluation();
        self.evaluation.begin_batch(batch);
        #[cfg(feature = "llama")]
        self.devices.begin_batch();
    }

    /// Ends the batch.
    ///
    /// # Errors
    /// What came up at its end; see [`Error`].
    pub fn end_batch(&mut self) -> Result<(), Error> {
        self.end_evaluation();
        self.evaluation.take_fault()?;
        #[cfg(feature = "llama")]
        if let Some(weight) = self.devices.first_bad() {
            self.evaluation.shared.stop();
            return Err(Error::NonFiniteOnDevice { weight });
        }
        self.evaluation.end_batch();
        Ok(())
    }

    /// Begins a decode, which evaluates one graph or several in turn.
    pub fn begin_decode(&mut self) {
        self.end_evaluation();
    }

    /// Goes on to node `id` of the evaluation.
    ///
    /// A decode of several micro-batches evaluates several graphs, and nothing says where one ends, but each node
    /// comes once in each, so the first to come again begins the next.
    pub fn begin_node(&mut self, id: usize) {
        self.with_devices(|evaluation, same| evaluation.begin_node(id, same));
    }

    /// Returns true if [`add`](Self::add) must be called for `product` once it is computed. That is not so if another
    /// weight's product has brought in its input already.
    pub fn asks(&mut self, product: &Product<'_>) -> bool {
        self.evaluation.asks(product)
    }

    /// Adds the input of the product that was last asked for; `ids` for a routed one.
    ///
    /// # Errors
    /// See [`Error`]. After an error the sums must not be used, and all lanes stop.
    pub fn add(&mut self, product: &Product<'_>, input: &Rows<'_>, ids: Option<&Ids<'_>>) -> Result<(), Error> {
        self.evaluation.add(product, input, ids)
    }

    pub(super) fn end_evaluation(&mut self) {
        self.with_devices(Evaluation::end_evaluation);
    }

    /// Calls `f` with a comparison of sums on devices.
    fn with_devices(&mut self, f: impl FnOnce(&mut Evaluation, Same<'_>)) {
        #[cfg(feature = "llama")]
        let mut same = |own: &dyn OnDevice, others: &dyn OnDevice| self.devices.same(own, others);
        #[cfg(not(feature = "llama"))]
        let mut same = |_: &dyn OnDevice, _: &dyn OnDevice| false;
        f(&mut self.evaluation, &mut same);
    }

    #[cfg(test)]
    pub(super) fn n_captures(&self) -> usize {
        self.evaluation.shared.lock().sharing.n_captures()
    }
}
