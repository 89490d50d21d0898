//! Serializes sheets as JSON: each row is an object with the keys of the columns, in order. Undefined numbers are
//! `null`.
//!
//! `docs/stats.md` describes the documents; `docs/stats.schema.json` is the schema of the statistics.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::sheet::{Cell, Sheet};
use crate::check::Check;
use crate::convergence::Point;
use crate::imatrix::{Fill, Filled};
use crate::lens::file::LensFile;

/// Serializes the sheet as an array of objects.
impl Serialize for Sheet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|row| Row { sheet: self, row }))
    }
}

struct Row<'a> {
    sheet: &'a Sheet,
    row: &'a [Cell],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.row.len()))?;
        for (heading, cell) in self.sheet.headings.iter().zip(self.row) {
            map.serialize_entry(heading.key, cell)?;
        }
        map.end()
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Count(n) => serializer.serialize_i64(*n),
            // serde_json writes NaN and infinity as null.
            Cell::Number(x) => serializer.serialize_f64(*x),
            Cell::Missing => serializer.serialize_none(),
        }
    }
}

/// The output of `stats --format json`.
#[derive(Debug, Serialize)]
pub struct StatsDocument {
    /// `llama-imatrix stats`.
    pub format: &'static str,
    /// 1.
    pub version: u32,
    /// Files in the given order.
    pub files: Vec<StatsFile>,
}

/// One matrix.
#[derive(Debug, Serialize)]
pub struct StatsFile {
    /// Name of the file as given.
    pub file: String,
    /// True for a legacy `.dat` file.
    pub legacy: bool,
    /// Names of the calibration files.
    pub datasets: Vec<String>,
    /// Number of chunks.
    pub chunk_count: i32,
    /// Tokens per chunk.
    pub chunk_size: i32,
    /// One row per weight.
    pub tensors: Sheet,
    /// One row per layer.
    pub layers: Sheet,
    /// One row per expert; only with `--by expert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Sheet>,
    /// How well the halves of the text agree: the last point of the convergence file beside the matrix; only if there is
    /// one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence: Option<Point>,
    /// Measurements of the layers, from the lens file beside the matrix; only if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lens: Option<LensFile>,
    /// Experts whose sums were filled, by weight; only if there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub filled: BTreeMap<String, Vec<u32>>,
    /// Of these, the experts that were filled from rows shown to them, with the number of rows; only if there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shown: BTreeMap<String, BTreeMap<u32, u32>>,
    /// Statistics that could not be computed.
    pub warnings: Vec<String>,
}

impl StatsFile {
    /// Returns [`filled`](Self::filled).
    #[must_use]
    pub fn filled_experts(filled: &Filled) -> BTreeMap<String, Vec<u32>> {
        filled.iter().map(|(name, experts)| (name.clone(), experts.keys().copied().collect())).collect()
    }

    /// Returns [`shown`](Self::shown).
    #[must_use]
    pub fn shown_experts(filled: &Filled) -> BTreeMap<String, BTreeMap<u32, u32>> {
        let rows = |(&expert, how): (&u32, &Fill)| match how {
            Fill::Shown { rows } => Some((expert, *rows)),
            Fill::Layer => None,
        };
        let of_weights = filled.iter().map(|(name, experts)| (name.clone(), experts.iter().filter_map(rows).collect()));
        of_weights.filter(|(_, shown): &(String, BTreeMap<u32, u32>)| !shown.is_empty()).collect()
    }
}

/// The output of `compare --format json`.
#[derive(Debug, Serialize)]
pub struct CompareDocument {
    /// `llama-imatrix compare`.
    pub format: &'static str,
    /// 1.
    pub version: u32,
    /// First file, A.
    pub first: String,
    /// Comparison with each other file.
    pub comparisons: Vec<CompareFile>,
}

/// The comparison of one matrix with the first.
#[derive(Debug, Serialize)]
pub struct CompareFile {
    /// Second file, B.
    pub second: String,
    /// One row per weight, largest difference first.
    pub tensors: Sheet,
    /// One row per layer, largest difference first.
    pub layers: Sheet,
    /// One row per expert, largest difference first; only with `--by expert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Sheet>,
}

/// The output of `check --format json`; `docs/check.schema.json` is its schema.
#[derive(Debug, Serialize)]
pub struct CheckDocument {
    /// `llama-imatrix check`.
    pub format: &'static str,
    /// 1.
    pub version: u32,
    /// Name of the model's first file as given.
    pub model_file: String,
    /// Name of the matrix's file as given.
    pub matrix_file: String,
    /// Exit code of the command.
    pub exit_code: u8,
    /// The result.
    #[serde(flatten)]
    pub check: Check,
}
