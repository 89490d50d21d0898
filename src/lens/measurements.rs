//! The measurements of a run with their settings: what a state file keeps, and what shards are merged from.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::file::{LensFile, Model};
use super::findings::{ChunkFindings, Columns, Findings, LensOptions, RowLayout};

/// What was measured, and how. Results of runs with other settings are not combined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The model.
    pub model: Model,
    /// Logit lens.
    pub lens: bool,
    /// Logit prism.
    pub prism: bool,
    /// Layer similarity.
    pub similarity: bool,
    /// Maximum number of positions per chunk.
    pub per_chunk: u32,
    /// Seed for drawing positions.
    pub seed: u64,
    /// Source of the final distributions: `model`, or the name of a logits file.
    pub base: String,
}

impl Settings {
    /// Returns the settings of a run of `model`.
    #[must_use]
    pub fn new(model: Model, options: &LensOptions) -> Self {
        let name = |base: &super::Base| base.file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            model,
            lens: options.lens,
            prism: options.prism,
            similarity: options.similarity,
            per_chunk: u32::try_from(options.per_chunk).unwrap_or(u32::MAX),
            seed: options.seed,
            base: options.base.as_ref().map_or_else(|| String::from("model"), name),
        }
    }
}

/// Settings and results of the measurements of a run, or of a part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurements {
    /// What was measured.
    pub settings: Settings,
    /// The results.
    pub findings: Findings,
}

impl Measurements {
    /// Adds the results of another part of the run. Returns false, and adds nothing, if that part was measured with other
    /// settings or has other parts.
    pub fn join(&mut self, other: Self) -> bool {
        self.settings == other.settings && self.findings.join(other.findings)
    }

    /// Summarizes the results.
    #[must_use]
    pub fn file(&self, dataset: String, chunk_size: u32, run_chunks: u64) -> LensFile {
        self.findings.file(&self.settings, dataset, chunk_size, run_chunks)
    }

    /// Returns the results as a table, for a state file; `None` without results.
    pub(crate) fn table(&self) -> Option<FindingsTable> {
        let layout = self.findings.layout()?;
        let chunks: Vec<(u64, usize)> =
            self.findings.chunks().map(|(chunk, found)| (chunk as u64, found.rows.len())).collect();
        let values = self.findings.chunks().flat_map(|(_, found)| found.rows.iter().flatten().copied()).collect();
        let columns = serde_json::to_string(&layout.columns).ok()?;
        Some(FindingsTable { columns, chunks, values })
    }

    /// Creates measurements from a table. Returns the rule that the table breaks.
    pub(crate) fn from_table(settings: Settings, table: &FindingsTable) -> Result<Self, &'static str> {
        let columns: Columns =
            serde_json::from_str(&table.columns).map_err(|_| "the columns of the measurements are not known")?;
        let layout = Arc::new(RowLayout { columns });
        let width = layout.width();
        let n_rows = table.chunks.iter().try_fold(0_usize, |sum, (_, rows)| sum.checked_add(*rows));
        if n_rows.and_then(|rows| rows.checked_mul(width)) != Some(table.values.len()) {
            return Err("the measurements do not have a value per position and column");
        }
        let mut rows = table.values.chunks_exact(width.max(1)).map(<[f64]>::to_vec);
        let mut findings = Findings::default();
        for &(chunk, n_rows) in &table.chunks {
            let chunk = usize::try_from(chunk).map_err(|_| "the measurements have a chunk with too large a number")?;
            findings.insert(
                chunk,
                ChunkFindings { layout: Arc::clone(&layout), rows: rows.by_ref().take(n_rows).collect() },
            );
        }
        Ok(Self { settings, findings })
    }
}

/// The results of a run as numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FindingsTable {
    /// The columns of a row, as JSON.
    pub(crate) columns: String,
    /// Chunks, ascending, with the number of positions of each.
    pub(crate) chunks: Vec<(u64, usize)>,
    /// The values of all rows, one after the other.
    pub(crate) values: Vec<f64>,
}
