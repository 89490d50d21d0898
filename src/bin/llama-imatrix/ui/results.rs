//! What is said of a result: the perplexity, and what is missing.

use llama_imatrix::imatrix::{Imatrix, Values};
use llama_imatrix::perplexity::Estimate;
use llama_imatrix::state::ChunkSet;

use super::log;
use super::print::print;

/// The empty line that a save leaves on standard output.
pub(crate) fn print_saved() {
    if log::verbosity() >= 1 {
        print(format_args!("\n"));
    }
}

/// The perplexity of the whole text, on standard output; where that cannot be written, in the log.
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

/// Says which chunks are missing in the result.
pub(crate) fn warn_of_discarded(discarded: &ChunkSet) {
    if !discarded.is_empty() {
        let (n, s) = (discarded.len(), if discarded.len() == 1 { "" } else { "s" });
        log::warn(format_args!("{n} chunk{s} discarded, with activations that are not finite: {discarded}"));
    }
}

/// Says which weights have seen too little.
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
