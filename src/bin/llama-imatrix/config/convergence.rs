//! `--convergence` and the flags that end a run early, checked.

use std::path::PathBuf;

use anyhow::ensure;
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::state::Shard;

use super::matrices::Merge;
use super::output::check_way;
use super::replaceable::refuse_foreign_json;
use crate::args::Flags;
use crate::ui::log;

/// The comparison of the halves of the text.
#[derive(Debug)]
pub(crate) struct Convergence {
    /// Path of the convergence file; `None` for a shard, and if the output is no regular file.
    pub(crate) path: Option<PathBuf>,
}

impl Convergence {
    /// Checks the flags; `None` if none asks for the comparison.
    pub(super) fn new(flags: &Flags, merge: &Merge, shard: Shard) -> anyhow::Result<Option<Self>> {
        check_goals(flags, shard)?;
        if !flags.compares_halves() {
            return Ok(None);
        }
        let flag = if flags.convergence { "--convergence" } else { "--stop-when-converged" };
        ensure!(
            merge.in_files.is_empty(),
            "{flag} cannot be combined with --in-file: a matrix does not store the halves of its text\n\
             hint: collect over the new text alone, then llama-imatrix merge adds the matrices up"
        );
        if !flags.shuffle {
            log::warn(format_args!(
                "{flag} without --shuffle: batches that follow each other are alike, so the halves agree better than two \
                 samples of the text\nhint: --shuffle evaluates the text in random order"
            ));
        }
        let path = (shard.is_whole() && merge.output.is_file()).then(|| ConvergenceFile::beside(merge.output.path()));
        match &path {
            Some(path) => {
                check_way(path)?;
                refuse_foreign_json(path, "convergence")?;
            }
            None if shard.is_whole() => log::warn(format_args!(
                "'{}' is not a regular file: no convergence file is written beside it, only a line in the log",
                merge.output.path().display()
            )),
            None => {}
        }
        Ok(Some(Self { path }))
    }
}

/// Checks `--stop-when-covered` and `--stop-when-converged`.
fn check_goals(flags: &Flags, shard: Shard) -> anyhow::Result<()> {
    let goals = [
        (flags.stop_when_covered.is_some(), "--stop-when-covered"),
        (flags.stop_when_converged.is_some(), "--stop-when-converged"),
    ];
    let Some((_, flag)) = goals.into_iter().find(|(given, _)| *given) else { return Ok(()) };
    ensure!(
        shard.is_whole(),
        "{flag} cannot be combined with --shard: a shard does not know what the others have seen"
    );
    ensure!(
        flags.stop_when_converged.is_none() || flags.output_frequency != 0,
        "--stop-when-converged cannot be combined with --output-frequency 0: the halves are compared at each save"
    );
    if flags.lanes.is_some_and(|lanes| lanes > 1) {
        log::warn(format_args!("{flag} evaluates batches one by one: --lanes is ignored"));
    }
    Ok(())
}
