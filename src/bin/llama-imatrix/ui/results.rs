//! Messages about a result: its perplexity, and what it lacks.

use llama_imatrix::imatrix::{Imatrix, Values};
use llama_imatrix::perplexity::Estimate;
use llama_imatrix::state::ChunkSet;

use super::log;
use super::print::print;

/// Prints the empty line that a save leaves on standard output.
pub(crate) fn print_saved() {
    if log::verbosity() >= 1 {
        print(format_args!("\n"));
    }
}

/// Prints the perplexity of the whole text; writes it to the log if standard output is lost.
pub(crate) fn print_estimate(estimate: &Estimate) {
    let line = match estimate.error {
        Some(error) => format!("Final estimate: PPL = {:.4} +/- {error:.5}", estimate.value),
        None => "Unexpected negative standard deviation of log(prob)".to_owned(),
    };
    print(format_args!("{line}\n"));
    if log::has_lost_output() {
        log::warn(format_args!("{line}"));
    }
}

/// Warns of chunks that the result lacks.
pub(crate) fn warn_of_discarded(discarded: &ChunkSet) {
    if !discarded.is_empty() {
        let (n, s) = (discarded.len(), if discarded.len() == 1 { "" } else { "s" });
        log::warn(format_args!("{n} chunk{s} discarded, with activations that are not finite: {discarded}"));
    }
}

/// Warns of weights without data, and of experts that no token was routed to.
pub(crate) fn warn_of_gaps(imatrix: &Imatrix<impl Values>) {
    for gap in imatrix.coverage() {
        if gap.is_empty() {
            log::warn(format_args!("entry '{}' has no data", gap.name));
        } else {
            log::warn(format_args!(
                "entry '{}' has partial data ({:.2}%): {} of {} experts were never routed to",
                gap.name,
                gap.percent(),
                gap.unseen,
                gap.total
            ));
        }
    }
}
