use crate::imatrix::{Entry, Imatrix};

use super::accumulate::{Scratch, add_dense, add_routed};
use super::chunks::{ChunkClock, Due};
use super::error::Error;
use super::product::{Ids, Product, Rows};
use super::rule::{Rule, Verdict};
use super::sharing::Sharing;

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

/// Sums the inputs of weights, product by product.
///
/// Between [`begin_decode`](Self::begin_decode) and the next, each node of the graph is announced with
/// [`begin_node`](Self::begin_node); for those that are products, [`asks`](Self::asks) says whether the input is needed,
/// and [`add`](Self::add) takes it.
#[derive(Debug)]
pub struct Collector {
    rule: Rule,
    clock: ChunkClock,
    sharing: Sharing,
    scratch: Scratch,
    /// The first node of this decode's first evaluation: once it comes again, the next evaluation has begun.
    first_node: Option<usize>,
    too_few_rows: u64,
    #[cfg(feature = "llama")]
    pub(super) fetched: super::observe::Fetched,
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(options: &CollectorOptions) -> Self {
        Self {
            rule: options.rule,
            clock: ChunkClock {
                chunk_size: options.chunk_size,
                chunks: 0,
                output_every: options.output_every,
                copy_every: options.copy_every,
                due: Vec::new(),
            },
            sharing: Sharing::default(),
            scratch: Scratch::default(),
            first_node: None,
            too_few_rows: 0,
            #[cfg(feature = "llama")]
            fetched: super::observe::Fetched::default(),
        }
    }

    /// Starts from sums collected earlier: they are added to.
    pub fn continue_from(&mut self, imatrix: &Imatrix) {
        for (name, entry) in &imatrix.entries {
            self.sharing.load(name.clone(), entry.clone());
        }
        self.clock.chunks = imatrix.chunk_count;
    }

    /// A decode begins: it evaluates one graph or several in turn.
    pub fn begin_decode(&mut self) {
        self.end_evaluation();
    }

    /// The evaluation goes on to node `id`.
    ///
    /// A decode of several micro-batches evaluates several graphs, and nothing says where one ends, but each node
    /// comes once in each, so the first to come again begins the next.
    pub fn begin_node(&mut self, id: usize) {
        if self.first_node == Some(id) {
            self.end_evaluation();
        }
        self.first_node.get_or_insert(id);
    }

    fn end_evaluation(&mut self) {
        if self.first_node.take().is_some() {
            self.sharing.end_evaluation();
        }
    }

    /// Whether [`add`](Self::add) shall be called for `product` once it is computed.
    pub fn asks(&mut self, product: &Product<'_>) -> bool {
        match self.rule.judge(product) {
            Verdict::Collected => self.sharing.asks(product),
            Verdict::TooFewRows => {
                self.too_few_rows += 1;
                false
            }
            Verdict::PassedOver => false,
        }
    }

    /// Adds the input of a product that was asked for; `ids` for a routed one.
    ///
    /// # Errors
    /// See [`Error`]. After an error the sums of `product`'s weight are not to be used.
    pub fn add(&mut self, product: &Product<'_>, input: &Rows<'_>, ids: Option<&Ids<'_>>) -> Result<(), Error> {
        let Some(capture) = self.sharing.capture_mut(product.weight) else { return Ok(()) };
        let shared = capture.is_shared();
        let undo = shared.then_some(&mut capture.undo);
        match ids {
            Some(ids) => add_routed(&mut capture.entry, product, input, ids, &mut self.scratch, undo)?,
            None => add_dense(&mut capture.entry, product, input, &mut self.scratch, undo)?,
        }
        for &rows in &capture.entry.counts {
            self.clock.saw(rows);
        }
        Ok(())
    }

    /// What has become due since the last call, in order.
    pub fn take_due(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.clock.due)
    }

    /// Whether the input of the output matrix is collected.
    #[must_use]
    pub fn collects_output(&self) -> bool {
        self.rule.process_output
    }

    /// Chunks so far, those loaded included.
    #[must_use]
    pub fn chunks(&self) -> i32 {
        self.clock.chunks
    }

    /// Inputs that were not collected for want of rows: see [`Rule::min_rows`].
    #[must_use]
    pub fn inputs_of_too_few_rows(&self) -> u64 {
        self.too_few_rows
    }

    /// Every weight with its sums, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.sharing.entries()
    }

    #[cfg(test)]
    pub(super) fn sharing_for_tests(&self) -> &Sharing {
        &self.sharing
    }
}
