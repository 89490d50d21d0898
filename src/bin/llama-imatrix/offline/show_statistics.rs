//! `--show-statistics`.

use std::io::Write;

use anyhow::bail;
use llama_imatrix::report::{self, Outcome};

use crate::config::ShowStatistics;
use crate::config::in_files::{add_up, load, open, warn_of_invalid};
use crate::ui::log;
use crate::ui::print::unless_nobody_reads;

/// Prints the statistics of a matrix as llama.cpp's tool does.
pub(crate) fn show_statistics(task: &ShowStatistics) -> anyhow::Result<()> {
    let files = open(std::slice::from_ref(&task.file))?;
    let loaded = load(&files, task.chunk_sizes)?;
    warn_of_invalid(&loaded);
    let imatrix = add_up(&loaded, task.chunk_sizes)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written =
        report::show_statistics(&mut out, &imatrix, &task.file).and_then(|outcome| out.flush().map(|()| outcome));
    let Some(outcome) = unless_nobody_reads(written)? else { return Ok(()) };
    for warning in outcome.warnings() {
        log::warn(format_args!("{warning}"));
    }
    match outcome {
        Outcome::Complete(_) => Ok(()),
        Outcome::LayerGap(_) => bail!("'{}' lacks layers: there are no layer statistics", task.file),
        Outcome::NoData(_) => bail!("'{}' holds no data", task.file),
    }
}
