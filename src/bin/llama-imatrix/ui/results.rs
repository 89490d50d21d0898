//! Messages about a result: its perplexity, and what it lacks.

use std::collections::BTreeMap;
use std::path::Path;

use llama_imatrix::imatrix::{Coverage, Imatrix, Values};
use llama_imatrix::perplexity::Estimate;
use llama_imatrix::state::ChunkSet;

use super::print::{print, print_series};
use super::{log, units};

/// Prints the empty line that a save leaves on standard output.
pub(crate) fn print_saved() {
    if log::verbosity() >= 1 {
        print_series(format_args!("\n"));
    }
}

/// Logs what was saved where: `saved imatrix.gguf: 28 weights, 216 chunks of 512 tokens, 81 KiB`, and `more`.
pub(crate) fn log_saved(path: &Path, imatrix: &Imatrix<impl Values>, more: &[String]) {
    let weights = counted(imatrix.entries.len() as u64, "weight");
    let chunks = counted(imatrix.chunk_count.max(0) as u64, "chunk");
    let mut parts = vec![weights, format!("{chunks} of {} tokens", imatrix.chunk_size)];
    // A pipe or a device has no size.
    parts.extend(path.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| units::bytes(metadata.len())));
    parts.extend_from_slice(more);
    log::info(format_args!("saved {}: {}", shell_word(path), parts.join(", ")));
}

/// `1 chunk`, `2 chunks`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Returns a file's name for a shell, quoted if necessary.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@,%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
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

/// Warns of weights without data and of experts that no token was routed to, each in one line.
pub(crate) fn warn_of_gaps(imatrix: &Imatrix<impl Values>) {
    for warning in gaps(&imatrix.coverage(), imatrix.entries.len()) {
        log::warn(format_args!("{warning}"));
    }
}

/// Names that a message shows.
const SHOWN: usize = 3;

fn gaps(gaps: &[Coverage], weights: usize) -> Vec<String> {
    let (empty, partial): (Vec<_>, Vec<_>) = gaps.iter().partition(|gap| gap.is_empty());
    let mut warnings = Vec::new();
    if let Some(first) = empty.first() {
        let names: Vec<_> = empty.iter().take(SHOWN).map(|gap| format!("'{}'", gap.name)).collect();
        let more = empty.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        warnings.push(if empty.len() == 1 {
            format!("weight '{}' has no data", first.name)
        } else {
            format!("{} of {weights} weights have no data: {}{more}", empty.len(), names.join(", "))
        });
    }
    let Some(worst) = partial.iter().min_by(|a, b| a.percent().total_cmp(&b.percent())) else { return warnings };
    // gate, up and down of a layer are routed alike: experts count once per layer.
    let mut layers: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for gap in &partial {
        let layer = layers.entry(layer(&gap.name)).or_default();
        *layer = (*layer).max((gap.unseen, gap.total));
    }
    let unseen = layers.values().map(|(unseen, _)| *unseen as u64).sum();
    warnings.push(format!(
        "{} of {weights} weights have partial data: in {} no token was routed to {}; the worst is '{}' \
         ({:.2}%, {} of {} experts unseen)\nhint: collect over more text, or more varied text; `llama-imatrix stats` lists \
         them all",
        partial.len(),
        counted(layers.len() as u64, "layer"),
        counted(unseen, "expert"),
        worst.name,
        worst.percent(),
        worst.unseen,
        worst.total
    ));
    warnings
}

/// `blk.7` of `blk.7.ffn_up_exps.weight`; other names are layers of their own.
fn layer(name: &str) -> &str {
    let end = name.strip_prefix("blk.").and_then(|rest| rest.find('.')).map(|dot| dot + "blk.".len());
    end.map_or(name, |end| &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(name: &str, unseen: usize, total: usize) -> Coverage {
        Coverage { name: name.to_owned(), unseen, total }
    }

    #[test]
    fn partial_data_of_many_layers_is_one_warning() {
        let of_layer =
            |i: usize| ["gate", "up", "down"].map(|part| gap(&format!("blk.{i}.ffn_{part}_exps.weight"), 10 + i, 64));
        let warnings = gaps(&(0..8).flat_map(of_layer).collect::<Vec<_>>(), 80);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(
            warning.starts_with("24 of 80 weights have partial data: in 8 layers no token was routed to 108 experts;")
        );
        assert!(
            warning.contains("the worst is 'blk.7.ffn_gate_exps.weight' (73.44%, 17 of 64 experts unseen)"),
            "{warning}"
        );
        assert!(warning.contains("\nhint: "), "{warning}");
    }

    #[test]
    fn weights_without_data_are_one_warning_too() {
        let empty: Vec<_> = (0..5).map(|i| gap(&format!("blk.{i}.x.weight"), 1, 1)).collect();
        assert_eq!(
            gaps(&empty, 9),
            ["5 of 9 weights have no data: 'blk.0.x.weight', 'blk.1.x.weight', 'blk.2.x.weight' and 2 more"]
        );
        assert_eq!(gaps(&empty[..1], 9), ["weight 'blk.0.x.weight' has no data"]);
        assert!(gaps(&[], 9).is_empty());
    }
}
