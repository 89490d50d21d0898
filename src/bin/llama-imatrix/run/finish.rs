//! The end of a run that is complete: results are saved and shown.

use std::time::Instant;

use llama_imatrix::Collector;
use llama_imatrix::evaluate::Outcome;
use llama_imatrix::shown::ShownExperts;

use super::events::EventHandler;
use super::lens::LensResult;
use super::{convergence, last_saves, next_step};
use crate::config::Collect;
use crate::ui::print::{print, print_series};
use crate::ui::results::{counted, log_saved, print_estimate, print_saved, shell_word, warn_of_discarded};
use crate::ui::{log, units};

/// Saves all results, prints those that are shown, removes the run's state, and logs what comes next. The run has `started`
/// with the loading of the model.
pub(crate) fn complete(
    task: &Collect,
    collector: &Collector,
    outcome: &Outcome,
    events: &mut EventHandler<'_>,
    lens: Option<&LensResult>,
    shown: Option<&mut ShownExperts<'_>>,
    started: Instant,
) -> anyhow::Result<()> {
    print_series(format_args!("\n"));
    let errors = last_saves::complete(task, events, collector, outcome, lens, shown);
    if let Some(estimate) = outcome.perplexity {
        print_estimate(&estimate);
    } else if task.flags.chunks == 0 && !task.flags.no_ppl {
        // What llama.cpp's tool makes of a perplexity of nothing.
        print(format_args!("Unexpected negative standard deviation of log(prob)\n"));
    }
    if let Some(lens) = lens {
        lens.print();
    }
    log_coverage(task, collector, outcome);
    convergence::log_end(task, events.compared(), outcome);
    warn_of_discarded(&outcome.position.discarded);
    if collector.inputs_of_too_few_rows() > 0 {
        log::warn(format_args!(
            "{} inputs with fewer than {} rows were skipped; hint: --min-rows 1 collects them",
            collector.inputs_of_too_few_rows(),
            task.min_rows
        ));
    }
    last_saves::end(task, events, &errors)?;
    print_saved();
    print_series(format_args!("\n"));
    if !task.flags.no_perf {
        let timings = outcome.timings;
        log::info(format_args!(
            "load time {:.2} ms, evaluation {:.2} ms for {} tokens ({:.2} tokens per second)",
            timings.load_ms,
            timings.prompt_eval_ms,
            timings.prompt_tokens,
            1e3 * f64::from(timings.prompt_tokens) / timings.prompt_eval_ms
        ));
    }
    log_end(task, collector, outcome, events, started);
    next_step::log_next(task);
    Ok(())
}

/// Logs what was saved, after how long, and the perplexity.
fn log_end(task: &Collect, collector: &Collector, outcome: &Outcome, events: &EventHandler<'_>, started: Instant) {
    let mut more = vec![units::duration(started.elapsed())];
    more.extend(outcome.perplexity.map(|estimate| format!("PPL {:.2}", estimate.value)));
    if !task.shard.is_whole() {
        let done = &outcome.position.done;
        log::info(format_args!(
            "saved {}: shard {}, {}, {}",
            shell_word(&task.state_path),
            task.shard,
            if done.is_empty() { "no chunk".to_owned() } else { format!("{} ({done})", counted(done.len(), "chunk")) },
            more.join(", ")
        ));
        return;
    }
    let snapshot = collector.snapshot();
    let entries: Vec<_> = snapshot.entries().collect();
    log_saved(task.merge.output.path(), &events.imatrix(snapshot.chunks, &entries), &more);
}

/// Logs whether `--stop-when-covered` has reached its goal.
fn log_coverage(task: &Collect, collector: &Collector, outcome: &Outcome) {
    let Some(tokens) = task.flags.stop_when_covered else { return };
    match collector.experts() {
        None => log::warn(format_args!("--stop-when-covered: the model has no experts")),
        Some(_) if outcome.covered => {
            log::info(format_args!("every expert has {tokens} tokens after chunks {}", outcome.position.done));
        }
        Some(experts) => log::warn(format_args!(
            "the text ended before every expert had {tokens} tokens: the fewest are {}, {} of {} experts are unseen",
            experts.least, experts.unseen, experts.total
        )),
    }
}
