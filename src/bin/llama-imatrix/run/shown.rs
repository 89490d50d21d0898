//! `--fill-experts shown`: rows are sampled during the run, and shown to experts that saw few tokens after it.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{bail, ensure};
use llama_imatrix::calibration::Chunks;
use llama_imatrix::evaluate::{Layout, Outcome, RunOptions};
use llama_imatrix::imatrix::{Imatrix, Numbers, Shown};
use llama_imatrix::llama::Model;
use llama_imatrix::shown::{Refusal, ShownExperts};

use crate::args::choices::FillExperts;
use crate::config::Collect;
use crate::ui::{log, units};

/// Most weights that a warning names.
const NAMED: usize = 3;

/// Learns the operations of the model's experts, if rows are shown to them. Fails if no weight's input can be computed, and
/// warns if those of some cannot.
pub(crate) fn prepare<'m>(
    task: &Collect,
    model: &'m Model,
    chunks: &Chunks,
    layout: &Layout,
    options: &RunOptions,
) -> anyhow::Result<Option<ShownExperts<'m>>> {
    if task.flags.fill_experts != FillExperts::Shown {
        return Ok(None);
    }
    let experts = ShownExperts::new(model, &options.context(chunks, layout, false))?;
    let refused = experts.refusals();
    if experts.layers().is_empty() {
        ensure!(
            !refused.is_empty(),
            "--fill-experts shown: the model has no experts whose rows can be sampled\nhint: leave out --fill-experts shown"
        );
        bail!("--fill-experts shown is not possible: {}\nhint: --fill-experts layer", named(refused));
    }
    if !refused.is_empty() {
        log::warn(format_args!(
            "--fill-experts shown: rows cannot be shown to the experts of {} of {} weights, which are filled as with layer: {}",
            refused.len(),
            refused.len() + experts.n_weights(),
            named(refused)
        ));
    }
    Ok(Some(experts))
}

/// Names the first weights of each reason.
fn named(refused: &[Refusal]) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for refusal in refused {
        reasons.entry(&refusal.reason).or_default().push(&refusal.weight);
    }
    let list = |(reason, weights): (&str, Vec<&str>)| {
        let more = if weights.len() > NAMED { format!(" and {} more", weights.len() - NAMED) } else { String::new() };
        format!("{}{more}: {reason}", weights[..weights.len().min(NAMED)].join(", "))
    };
    reasons.into_iter().map(list).collect::<Vec<_>>().join("; ")
}

/// Shows the sampled rows to the experts that saw few tokens. `None` if none of them could be shown rows: a warning says
/// why, and the matrix that was saved before stays.
pub(crate) fn show(
    task: &Collect,
    experts: &mut ShownExperts<'_>,
    imatrix: &Imatrix<Numbers<'_>>,
    outcome: &Outcome,
    goes_on: impl Fn() -> bool,
) -> Option<Shown> {
    let below = task.merge.output.fill_below()?;
    let sample = &outcome.position.sample;
    if sample.is_empty() {
        log::warn(format_args!("no rows were sampled for --fill-experts shown: experts are filled as with layer"));
        return None;
    }
    let started = Instant::now();
    let mut interrupted = false;
    let progress = |done, all| {
        if done == 0 {
            log::info(format_args!("showing {} rows to experts of {all} weights", sample.len()));
        }
        interrupted = !goes_on();
        !interrupted
    };
    let shown = match experts.sums(&imatrix.entries, sample, below, progress) {
        Ok(shown) => shown,
        Err(reason) => {
            log::warn(format_args!("--fill-experts shown failed: {reason}; experts are filled as with layer"));
            return None;
        }
    };
    if interrupted {
        log::warn(format_args!("interrupted: the experts of the other weights are filled as with layer"));
    }
    let n: usize = shown.values().map(BTreeMap::len).sum();
    if n > 0 {
        let took = units::duration(started.elapsed());
        log::info(format_args!("{} rows were shown to {n} experts in {} weights in {took}", sample.len(), shown.len()));
    }
    Some(shown)
}
