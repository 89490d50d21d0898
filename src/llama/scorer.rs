//! Log-likelihoods of some rows, in a graph of our own: never more logits at once than a few rows'. It runs where the
//! output matrix is, so that no logits leave a device.

mod host;

use llama_cpp_sys_2 as sys;

use super::Token;
use super::device::DeviceScorer;
use super::logit_ops::{Finding, LogitOps, Place};
use super::outputs::Targets;
use host::HostScorer;

/// Rows whose logits are in memory at once. Enough that reading the output matrix once more for each lot costs little.
const ROWS_AT_ONCE: usize = 64;

/// Computes negative log-likelihoods from the input of the output matrix.
pub(super) struct Scorer {
    logit_ops: LogitOps,
    engine: Engine,
    targets: Targets,
    /// Whether the rows come in the batch's order however llama.cpp splits it.
    one_sequence: bool,
    /// The batch's first row that has not come up.
    next: usize,
    scores: Vec<f64>,
}

/// What computes them.
enum Engine {
    Host(HostScorer),
    Device(DeviceScorer),
}

// SAFETY: the operations point to the model's tensors, which are not written.
unsafe impl Send for Scorer {}

impl Scorer {
    /// Creates a scorer, or returns the reason why ggml cannot.
    ///
    /// # Safety
    /// The graph that `found` describes must still be allocated.
    pub(super) unsafe fn new(found: Finding, n_threads: usize) -> Result<Self, &'static str> {
        let Finding { logit_ops, place, weight } = found;
        let engine = match place {
            Place::Host => Engine::Host(HostScorer::new(n_threads).ok_or("ggml has no CPU backend")?),
            Place::Device(device) => {
                // SAFETY: our own contract.
                let scorer = unsafe { DeviceScorer::new(device, weight.as_ref(), &logit_ops) };
                Engine::Device(scorer.ok_or("the device with the output matrix cannot reduce logits")?)
            }
        };
        Ok(Self { logit_ops, engine, targets: Targets::new(), one_sequence: true, next: 0, scores: Vec::new() })
    }

    pub(super) fn set_threads(&mut self, n_threads: usize) {
        if let Engine::Host(scorer) = &mut self.engine {
            scorer.set_threads(n_threads);
        }
    }

    /// Begins a decode whose rows have these targets.
    pub(super) fn begin(&mut self, targets: Targets, one_sequence: bool) {
        self.targets = targets;
        self.one_sequence = one_sequence;
        self.next = 0;
        self.scores.clear();
    }

    /// Ends a decode and returns one score per row with a target, in order.
    pub(super) fn finish(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.scores)
    }

    /// Takes the input of the output matrix for the batch's next rows.
    ///
    /// # Safety
    /// `node` is the computed product with the output matrix of the graph that the operations were found in.
    pub(super) unsafe fn take(&mut self, node: &sys::ggml_tensor) -> Result<(), String> {
        // SAFETY: a product's second source lives as long as it does.
        let rows = unsafe { (*node.src[1]).ne[1] } as usize;
        if !self.one_sequence && rows != self.targets.len() {
            return Err("llama.cpp has split a batch of several sequences: its rows are in an unknown order".to_owned());
        }
        let first = self.next;
        self.next += rows;
        let Some(targets) = self.targets.get(first..first + rows).map(<[_]>::to_vec) else { return Ok(()) };
        let at_once = match &self.engine {
            Engine::Host(_) => ROWS_AT_ONCE,
            Engine::Device(_) => DeviceScorer::rows_at_once(node.ne[0]),
        };
        let mut from = 0;
        while let Some(start) = targets[from..].iter().position(Option::is_some).map(|skipped| from + skipped) {
            let wanted: Vec<Token> = targets[start..].iter().copied().take(at_once).map_while(|t| t).collect();
            let rows = start..start + wanted.len();
            let Self { logit_ops, engine, scores, .. } = self;
            // SAFETY: our own contract; the rows are the input's.
            unsafe {
                match engine {
                    Engine::Host(scorer) => scorer.score(node, logit_ops, &rows, &wanted, scores)?,
                    Engine::Device(scorer) => scorer.score(node, logit_ops, &rows, &wanted, scores)?,
                }
            }
            from = start + wanted.len();
        }
        Ok(())
    }
}
