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

/// Adds the inputs of one context's products to a [`Collector`].
///
/// Call [`begin_decode`](Self::begin_decode) before each decode, and [`begin_node`](Self::begin_node) for each node of
/// a graph in the order of computation. If [`asks`](Self::asks) returns true for a product, pass its input to
/// [`add`](Self::add) once the product is computed.
///
/// To evaluate batches in parallel lanes or to take snapshots, call [`begin_batch`](Self::begin_batch) and
/// [`end_batch`](Self::end_batch) around the decodes of each batch.
#[derive(Debug)]
pub struct Lane {
    pub(super) evaluation: Evaluation,
    #[cfg(feature = "llama")]
    pub(super) fetched: super::observe::Fetched,
    /// Computes sums on devices.
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

    /// Returns where activations are summed: exact sums always on the host.
    #[cfg(feature = "llama")]
    pub(super) fn sum_on(&self) -> SumOn {
        let options = &self.evaluation.shared.options;
        if options.accumulate == Accumulate::F64 { SumOn::Host } else { options.sum_on }
    }

    /// Begins batch `batch`, counted from 0. Every batch must be evaluated by exactly one lane.
    pub fn begin_batch(&mut self, batch: usize) {
        self.begin_numbered_batch(batch, batch);
    }

    /// Begins batch `batch` of this run, which is batch `number` of the text: a run that was resumed, or that leaves out
    /// batches, begins its own count at 0. Batches of even numbers are the even half of the text.
    pub(crate) fn begin_numbered_batch(&mut self, batch: usize, number: usize) {
        self.end_evaluation();
        self.evaluation.begin_batch(batch, number);
        #[cfg(feature = "llama")]
        self.devices.begin_batch();
    }

    /// Ends the batch.
    ///
    /// # Errors
    /// An error from a call that could not return it, or a sum on a device that is not finite; see [`Error`].
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

    /// Begins a decode, which evaluates one or more graphs.
    pub fn begin_decode(&mut self) {
        self.end_evaluation();
    }

    /// Announces node `id` of the evaluation.
    ///
    /// A decode of several micro-batches evaluates several graphs without announcing where one ends. Each node occurs
    /// once per graph, so the next evaluation begins when the first node occurs again.
    pub fn begin_node(&mut self, id: usize) {
        self.with_devices(|evaluation, same| evaluation.begin_node(id, same));
    }

    /// Returns true if [`add`](Self::add) must be called for `product` once it is computed. Returns false if the rule
    /// does not select the product, or if another weight's product has already added the same input.
    pub fn asks(&mut self, product: &Product<'_>) -> bool {
        self.evaluation.asks(product)
    }

    /// Adds the input of the product that was last asked for. `ids` are required for a routed product. Waits until all
    /// earlier batches have added their inputs.
    ///
    /// # Errors
    /// See [`Error`]. After an error the sums must not be used, and all lanes stop.
    pub fn add(&mut self, product: &Product<'_>, input: &Rows<'_>, ids: Option<&Ids<'_>>) -> Result<(), Error> {
        self.evaluation.add(product, input, ids)
    }

    pub(super) fn end_evaluation(&mut self) {
        self.with_devices(Evaluation::end_evaluation);
    }

    /// Calls `f` with a function that compares sums on devices.
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
