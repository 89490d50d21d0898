//! Log-likelihoods of some rows, in a graph of our own that holds the logits of a few rows at once. It runs on the
//! device that has the output matrix, so that no logits leave it.

mod host;

use llama_cpp_sys_2 as sys;

use super::Token;
use super::device::DeviceScorer;
use super::logit_ops::{APART, Finding, LogitOps, Place, place_of};
use super::outputs::Targets;
use host::HostScorer;

/// Most rows whose logits are in host memory at once. Enough that reading the output matrix once per part costs little.
const ROWS_AT_ONCE: usize = 64;

/// Computes negative log-likelihoods from the input of the output matrix.
pub(super) struct Scorer {
    logit_ops: LogitOps,
    n_threads: usize,
    /// One engine per place in which a product has been. A batch of some size may be in another place than the two
    /// tokens of the probe: llama.cpp copies weights from host memory to a GPU for it (`--op-offload`).
    engines: Vec<(Place, Engine)>,
    targets: Targets,
    /// True if the rows keep the batch's order however llama.cpp splits it.
    one_sequence: bool,
    /// The first row of the batch that has not been computed yet.
    next: usize,
    scores: Vec<f64>,
}

/// Computes the scores in one place.
enum Engine {
    Host(HostScorer),
    Device(DeviceScorer),
}

impl Engine {
    /// # Safety
    /// `weight` and the operands of `logit_ops` are in `place` and stay allocated during the call.
    unsafe fn new(
        place: Place,
        weight: &sys::ggml_tensor,
        logit_ops: &LogitOps,
        n_threads: usize,
    ) -> Result<Self, &'static str> {
        match place {
            Place::Host => Ok(Self::Host(HostScorer::new(n_threads).ok_or("ggml has no CPU backend")?)),
            Place::Device(device) => {
                // SAFETY: our own contract.
                let scorer = unsafe { DeviceScorer::new(device, weight, logit_ops) };
                Ok(Self::Device(scorer.ok_or("the device with the output matrix cannot reduce logits")?))
            }
        }
    }
}

impl Scorer {
    /// Creates a scorer, or returns the reason why ggml cannot.
    ///
    /// # Safety
    /// The graph that `found` describes is still allocated. The scorer's later calls need the operands of its
    /// operations alone: these are weights of the model, which must outlive the scorer.
    pub(super) unsafe fn new(found: Finding, n_threads: usize) -> Result<Self, &'static str> {
        let Finding { logit_ops, place, weight } = found;
        // SAFETY: our own contract; the probe has found the weight and the operands in this place.
        let engine = unsafe { Engine::new(place, weight.as_ref(), &logit_ops, n_threads) }?;
        let engines = vec![(place, engine)];
        Ok(Self {
            logit_ops,
            n_threads,
            engines,
            targets: Targets::new(),
            one_sequence: true,
            next: 0,
            scores: Vec::new(),
        })
    }

    pub(super) fn set_threads(&mut self, n_threads: usize) {
        self.n_threads = n_threads;
        for (_, engine) in &mut self.engines {
            if let Engine::Host(scorer) = engine {
                scorer.set_threads(n_threads);
            }
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

    /// Scores the next rows of the batch from the input of the output matrix.
    ///
    /// # Safety
    /// `node` is a product with the output matrix, whose sources are computed and stay so during the call.
    pub(super) unsafe fn take(&mut self, node: &sys::ggml_tensor) -> Result<(), String> {
        // SAFETY: a product has two sources, which live as long as it does.
        let (weight, input) = unsafe { (&*node.src[0], &*node.src[1]) };
        let rows = input.ne[1] as usize;
        if !self.one_sequence && rows != self.targets.len() {
            return Err("llama.cpp has split a batch of several sequences: its rows are in an unknown order".to_owned());
        }
        let first = self.next;
        self.next += rows;
        let Some(targets) = self.targets.get(first..first + rows).map(<[_]>::to_vec) else { return Ok(()) };
        let place = self.place(weight, input).ok_or_else(|| format!("{APART}; hint: --no-op-offload"))?;
        let at_once = match place {
            Place::Host => ROWS_AT_ONCE,
            Place::Device(_) => DeviceScorer::rows_at_once(node.ne[0]),
        };
        let known = self.engines.iter().position(|(known, _)| *known == place);
        let number = known.unwrap_or(self.engines.len());
        if known.is_none() {
            // SAFETY: weight and operands are in this place (checked), and alive by our own contract.
            let engine = unsafe { Engine::new(place, weight, &self.logit_ops, self.n_threads) }?;
            self.engines.push((place, engine));
        }
        let mut from = 0;
        while let Some(start) = targets[from..].iter().position(Option::is_some).map(|skipped| from + skipped) {
            let wanted: Vec<Token> = targets[start..].iter().copied().take(at_once).map_while(|t| t).collect();
            let rows = start..start + wanted.len();
            let Self { logit_ops, engines, scores, .. } = self;
            // SAFETY: our own contract. Sources and operands are in the engine's place (checked), and the input has
            // these rows.
            unsafe {
                match &mut engines[number].1 {
                    Engine::Host(scorer) => scorer.score(node, logit_ops, &rows, &wanted, scores)?,
                    Engine::Device(scorer) => scorer.score(node, logit_ops, &rows, &wanted, scores)?,
                }
            }
            from = start + wanted.len();
        }
        Ok(())
    }

    /// Returns the place of the product's sources and of all operands after it, if it is the same.
    fn place(&self, weight: &sys::ggml_tensor, input: &sys::ggml_tensor) -> Option<Place> {
        let place = place_of(weight)?;
        let mut operands = self.logit_ops.iter().filter_map(|op| op.operand);
        // SAFETY: an operand is a weight of the model, which outlives the scorer.
        let together = operands.all(|operand| place_of(unsafe { operand.as_ref() }) == Some(place));
        (together && place_of(input) == Some(place)).then_some(place)
    }
}
