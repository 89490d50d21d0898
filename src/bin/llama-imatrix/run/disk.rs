//! Free space on the disk, checked before the run.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use llama_imatrix::atomic_file::follow_links;
use llama_imatrix::calibration::Chunks;
use llama_imatrix::evaluate::Layout;
use llama_imatrix::state::Accumulate;

use super::weights::Weights;
use crate::config::Collect;
use crate::ui::log;

/// Bytes per channel and matrix in the output: two sums in f32.
const OUTPUT_BYTES: u64 = 8;
/// Bytes per channel and matrix in a state with exact sums.
const EXACT_BYTES: u64 = 40;
/// Bytes per channel and matrix in a state of the sum of squares over half of the text, in f64.
const HALF_BYTES: u64 = 8;
/// Bytes of either file for a weight's names and places, at most, and for what a file says of itself.
const WEIGHT_BYTES: u64 = 512;
const HEAD_BYTES: u64 = 1 << 12;
/// Bytes per token in a shard's state: its likelihood.
const TOKEN_BYTES: u64 = 8;

/// Sizes of the files that a run writes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    output: u64,
    state: u64,
    /// Numbered copies of the output, all together.
    copies: u64,
}

impl Sizes {
    /// Free bytes that it takes. Every save is written beside what it replaces; what is there now of both files is
    /// `replaced`.
    fn needed(self, replaced: u64) -> u64 {
        let largest = self.output.max(self.state);
        [self.state, self.copies, largest]
            .iter()
            .fold(self.output, |a, &b| a.saturating_add(b))
            .saturating_sub(replaced)
    }
}

/// Fails if the disk lacks space for the matrix, its copies and the state, and for one save beside the file that it replaces.
/// The number of copies follows from the text's `chunks`.
pub(crate) fn check_room(
    task: &Collect,
    weights: Option<&Weights>,
    chunks: Option<(&Chunks, &Layout)>,
) -> anyhow::Result<()> {
    let path = task.merge.output.path();
    // A pipe or a device takes what it takes, and llama.cpp says what is wrong with a model.
    if !task.merge.output.is_file() {
        return Ok(());
    }
    let Some(weights) = weights else { return Ok(()) };
    let target = follow_links(path)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replaced = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let replaced = if task.shard.is_whole() { replaced(&target) } else { 0 } + replaced(&task.state_path);
    let needed = sizes(task, weights, chunks).needed(replaced);
    match fs4::available_space(folder) {
        Ok(free) => ensure!(
            free >= needed,
            "cannot write '{}': its folder has {} free, the run writes up to {}",
            path.display(),
            shown(free),
            shown(needed)
        ),
        Err(error) => log::debug(format_args!("the room in '{}' is unknown: {error}", folder.display())),
    }
    Ok(())
}

fn sizes(task: &Collect, weights: &Weights, chunks: Option<(&Chunks, &Layout)>) -> Sizes {
    let flags = &task.flags;
    let exact = task.accumulate == Accumulate::F64;
    let halves = if task.convergence.is_some() { HALF_BYTES } else { 0 };
    let state = bytes(weights, if exact { EXACT_BYTES } else { OUTPUT_BYTES } + halves);
    if !task.shard.is_whole() {
        let tokens = chunks.filter(|_| !flags.no_ppl).map_or(0, |(chunks, layout)| {
            layout.part(task.shard).map(|chunk| chunks.scored(chunk).len() as u64).sum::<u64>()
        });
        return Sizes { state: state.saturating_add(tokens * TOKEN_BYTES), ..Sizes::default() };
    }
    let output = bytes(weights, OUTPUT_BYTES);
    let copies = match (u64::try_from(flags.save_frequency), chunks) {
        (Ok(every @ 1..), Some((chunks, _))) => output.saturating_mul(chunks.len() as u64 / every),
        _ => 0,
    };
    Sizes { output, state: if task.state_way.is_some() { state } else { 0 }, copies }
}

/// Returns the size of a file with `per_value` bytes per value of each weight.
fn bytes(weights: &Weights, per_value: u64) -> u64 {
    weights.entry_values.saturating_mul(per_value).saturating_add(weights.entries * WEIGHT_BYTES + HEAD_BYTES)
}

fn shown(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < 10 * MIB { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes.div_ceil(MIB)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_needs_room_beside_the_file_it_replaces() {
        let sizes = Sizes { output: 100, state: 500, copies: 30 };
        assert_eq!(sizes.needed(0), 100 + 500 + 30 + 500);
        // Files that are there already are replaced.
        assert_eq!(sizes.needed(600), 530);
        assert_eq!(sizes.needed(10_000), 0);
        assert_eq!(Sizes { output: 100, ..Sizes::default() }.needed(0), 200);
        assert_eq!(Sizes { output: u64::MAX, state: 1, copies: u64::MAX }.needed(0), u64::MAX);
    }

    #[test]
    fn sizes_are_shown_rounded_up() {
        assert_eq!(
            [shown(0), shown(1), shown(10 << 20), shown((1 << 30) + 1)],
            ["0 KiB", "1 KiB", "10 MiB", "1025 MiB"]
        );
    }
}
