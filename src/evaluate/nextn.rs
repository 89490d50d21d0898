//! A NextN layer along with its trunk.

use crate::collect::collector::{Collector, CollectorOptions};
use crate::llama::{self, Batch, Context, ContextOptions, NextnContext};
use crate::nextn::Layer;

use super::watcher::Watcher;

/// Evaluates a NextN layer on what the trunk leaves: each token with the hidden state of the token before it.
///
/// One lane sees both: it watches here while a batch is evaluated here, and the trunk otherwise.
pub(super) struct Follower<'m> {
    context: NextnContext<'m, Watcher>,
    /// The hidden state of the last token so far: the token that goes with it comes in the chunk's next batch.
    last_state: Vec<f32>,
}

impl<'m> Follower<'m> {
    /// Has `trunk` keep its hidden states and creates a context of its shape for `layer`.
    pub(super) fn new(
        layer: &Layer<'m>,
        options: &ContextOptions,
        trunk: &mut Context<'_, Watcher>,
    ) -> Result<Self, llama::Error> {
        let stand_in = Watcher::new(Collector::new(&CollectorOptions::default()).lane());
        let context = NextnContext::new(layer.model, options, stand_in, layer.own_head)?;
        trunk.keep_nextn_states()?;
        Ok(Self { context, last_state: Vec::new() })
    }

    /// Forgets the chunk. Its last token's state goes unused.
    pub(super) fn clear(&mut self) {
        self.context.clear();
        self.last_state.clear();
    }

    /// Evaluates the layer on the batch that `trunk` has just evaluated, of one sequence.
    pub(super) fn follow(&mut self, trunk: &mut Context<'_, Watcher>, batch: &Batch) -> Result<(), llama::Error> {
        let mut tokens = batch.tokens();
        let Some((token, position)) = tokens.next() else { return Ok(()) };
        if !self.last_state.is_empty() {
            self.context.push(token, position, &self.last_state)?;
        }
        for (row, (token, position)) in tokens.enumerate() {
            self.context.push(token, position, trunk.nextn_state(row)?)?;
        }
        let last = trunk.nextn_state(batch.len() - 1)?;
        self.last_state.clear();
        self.last_state.extend_from_slice(last);
        if self.context.is_empty() {
            return Ok(());
        }

        std::mem::swap(trunk.observer_mut(), self.context.observer_mut());
        let result = self.context.decode();
        std::mem::swap(trunk.observer_mut(), self.context.observer_mut());
        result
    }
}
