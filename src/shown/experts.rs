//! Computes the inputs of experts' weights from sampled rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::imatrix::{Entry, Shown, ShownSums, Values};
use crate::llama::{self, Batch, Context, ContextOptions, Model, Outputs, Replay, Replayer, Token};

use super::blocks::find;
use super::sample::{RowSample, SampledLayer};

/// Tokens per computation. Below 32, llama.cpp copies no weights from host memory to a GPU (`--op-offload`).
const TOKENS_AT_ONCE: u32 = 16;

/// A weight whose input cannot be computed apart from the model's graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The weight.
    pub weight: String,
    /// The reason.
    pub reason: String,
}

/// The experts of a model, ready to be shown rows. It borrows the model.
///
/// Only weights are considered whose input is computed from the products of other weights of the same experts: down. Gate
/// and up read the layer's rows, whose mean the matrix has.
pub struct ShownExperts<'m> {
    layers: Arc<[SampledLayer]>,
    weights: Vec<Weight<'m>>,
    refusals: Vec<Refusal>,
    replayer: Replayer,
}

/// A weight whose input can be computed.
struct Weight<'m> {
    name: String,
    /// Index of its layer.
    layer: usize,
    replay: Replay<'m>,
}

impl<'m> ShownExperts<'m> {
    /// Learns the model's operations from the graph of a few tokens, in a separate context with these options.
    ///
    /// # Errors
    /// An error of the context.
    pub fn new(model: &'m Model, options: &ContextOptions) -> Result<Self, llama::Error> {
        let options = ContextOptions {
            n_ctx: TOKENS_AT_ONCE,
            n_batch: TOKENS_AT_ONCE,
            n_ubatch: TOKENS_AT_ONCE,
            n_seq: 1,
            outputs: Outputs::Nothing,
            ..options.clone()
        };
        let n_threads = usize::try_from(options.n_threads_batch).unwrap_or(1);
        let mut experts = Self {
            layers: Arc::default(),
            weights: Vec::new(),
            refusals: Vec::new(),
            replayer: Replayer::new(n_threads),
        };
        if model.is_encoder_decoder() {
            return Ok(experts); // a run refuses it
        }
        let mut context = Context::new(model, &options, ())?;
        let mut batch = Batch::new();
        let token: Token = model.vocab().leading_bos().unwrap_or(0);
        for position in 0..TOKENS_AT_ONCE as i32 {
            batch.add(token, position, 0);
        }
        let graph = context.record(&mut batch)?;
        drop(context);
        let mut layers: Vec<SampledLayer> = Vec::new();
        for found in find(&graph) {
            let ready = found.and_then(|block| {
                let replay = Replay::new(&graph, &block.part).and_then(|replay| {
                    check_shapes(&replay)?;
                    experts.replayer.check(&replay).map(|()| replay)
                });
                replay
                    .map(|replay| (block.weight.clone(), block.reader, replay))
                    .map_err(|reason| (block.weight, reason))
            });
            match ready {
                Ok((name, reader, replay)) => {
                    let [n0, n1, ..] = replay.rows_ne();
                    let width = (n0 * n1) as usize;
                    let known = layers.iter().position(|layer| layer.weight == reader);
                    let layer = known.unwrap_or(layers.len());
                    if known.is_none() {
                        layers.push(SampledLayer { weight: reader, width });
                    }
                    experts.weights.push(Weight { name, layer, replay });
                }
                Err((weight, reason)) => experts.refusals.push(Refusal { weight, reason }),
            }
        }
        experts.layers = layers.into();
        Ok(experts)
    }

    /// Returns the layers whose rows a run must sample, in the order of the graph.
    #[must_use]
    pub fn layers(&self) -> &Arc<[SampledLayer]> {
        &self.layers
    }

    /// Number of weights whose input can be computed.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.weights.len()
    }

    /// Returns the weights whose input cannot be computed.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Computes, from the sampled rows, the sums of each expert that has fewer than `below` tokens in `entries`. Calls
    /// `progress` before each weight with the number of weights that are done and of all; if it returns false, returns what
    /// is computed so far.
    ///
    /// # Errors
    /// The reason why a weight's input could not be computed.
    pub fn sums<V: Values>(
        &mut self,
        entries: &BTreeMap<String, Entry<V>>,
        sample: &RowSample,
        below: i64,
        mut progress: impl FnMut(usize, usize) -> bool,
    ) -> Result<Shown, String> {
        let mut shown = Shown::new();
        if *sample.layers() != *self.layers || sample.is_empty() {
            return Ok(shown);
        }
        let Self { weights, replayer, .. } = self;
        let few = |weight: &Weight<'_>| -> Vec<i32> {
            let counts = entries.get(&weight.name).map_or(&[][..], |entry| &entry.counts);
            let known = counts.len() == weight.replay.n_experts();
            (0..).zip(counts).filter(|&(_, &count)| known && count < below).map(|(expert, _)| expert).collect()
        };
        let due: Vec<(&Weight<'_>, Vec<i32>)> =
            weights.iter().map(|weight| (weight, few(weight))).filter(|(_, few)| !few.is_empty()).collect();
        for (done, (weight, few)) in due.iter().enumerate() {
            if !progress(done, due.len()) {
                break;
            }
            let sums = show(replayer, weight, few, sample).map_err(|reason| format!("{}: {reason}", weight.name))?;
            shown.insert(weight.name.clone(), sums);
        }
        Ok(shown)
    }
}

/// Checks that a replay has one row of experts per token.
fn check_shapes(replay: &Replay<'_>) -> Result<(), String> {
    let ([_, _, tokens, r3], [slots, id_tokens, i2, i3]) = (replay.rows_ne(), replay.ids_ne());
    let [_, n1, n2, n3] = replay.result_ne();
    let n_tokens = i64::from(TOKENS_AT_ONCE);
    let fits =
        tokens == n_tokens && id_tokens == n_tokens && [r3, i2, i3, n3] == [1; 4] && [n1, n2] == [slots, n_tokens];
    if !fits || slots < 1 || usize::try_from(slots).is_ok_and(|slots| slots > replay.n_experts()) {
        return Err("its layer does not evaluate each token by itself".to_owned());
    }
    Ok(())
}

/// Computes the sums of experts of a weight from all rows of the sample.
fn show(
    replayer: &mut Replayer,
    weight: &Weight<'_>,
    experts: &[i32],
    sample: &RowSample,
) -> Result<BTreeMap<u32, ShownSums>, String> {
    let replay = &weight.replay;
    let slots = replay.ids_ne()[0] as usize;
    let n_at_once = TOKENS_AT_ONCE as usize;
    let channels = replay.result_ne()[0] as usize;
    let rows: Vec<&[f32]> = sample.rows_of(weight.layer).collect();
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut all = BTreeMap::new();
    for group in experts.chunks(slots) {
        let ids = ids(group, slots, replay.n_experts()).repeat(n_at_once);
        let empty = || ShownSums { rows: 0, sum2: vec![0.0; channels], sum: vec![0.0; channels] };
        let mut sums: Vec<ShownSums> = group.iter().map(|_| empty()).collect();
        for part in rows.chunks(n_at_once) {
            input.clear();
            // The last rows are repeated where there are fewer, and their results left out.
            let last = part[part.len() - 1];
            (0..n_at_once).for_each(|i| input.extend_from_slice(part.get(i).unwrap_or(&last)));
            replayer.compute(replay, &input, &ids, &mut output)?;
            for token in output.chunks_exact(slots * channels).take(part.len()) {
                for (sums, row) in sums.iter_mut().zip(token.chunks_exact(channels)) {
                    sums.add(row);
                }
            }
        }
        all.extend(group.iter().zip(sums).filter_map(|(&expert, sums)| Some((u32::try_from(expert).ok()?, sums))));
    }
    Ok(all)
}

/// Returns an id per slot: the group, and then other experts, since a token has no expert twice.
fn ids(group: &[i32], slots: usize, n_experts: usize) -> Vec<i32> {
    let others = (0..i32::try_from(n_experts).unwrap_or(i32::MAX)).filter(|expert| !group.contains(expert));
    group.iter().copied().chain(others).take(slots).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_has_an_expert_twice() {
        assert_eq!(ids(&[5, 7], 2, 8), [5, 7]);
        assert_eq!(ids(&[1], 4, 8), [1, 0, 2, 3]);
        assert_eq!(ids(&[0], 1, 1), [0]);
    }
}
