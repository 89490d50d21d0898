//! Evaluates a NextN layer together with its trunk.

use crate::collect::collector::{Collector, CollectorOptions};
use crate::llama::{self, Batch, Context, ContextOptions, NextnContext};
use crate::nextn::Layer;

use super::watcher::Watcher;

/// Evaluates a NextN layer on the hidden states of the trunk: each token with the state of the token before it.
///
/// One lane observes both contexts: it is moved to this one while the layer is evaluated.
pub(super) struct Follower<'m> {
    context: NextnContext<'m, Watcher>,
    /// Hidden state of the last token so far. Its next token is in the chunk's next decode.
    last_state: Vec<f32>,
}

impl<'m> Follower<'m> {
    /// Makes `trunk` keep its hidden states, and creates a context of the same size for `layer`.
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

    /// Forgets the chunk. The hidden state of its last token is not used.
    pub(super) fn clear(&mut self) {
        self.context.clear();
        self.last_state.clear();
    }

    /// Evaluates the layer on the batch that `trunk` has just evaluated, which must have one sequence.
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
