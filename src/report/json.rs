//! Sheets as JSON: each row an object of the columns' keys, in their order; `null` where a number has no meaning.
//!
//! `docs/stats.md` describes the documents, `docs/stats.schema.json` is the statistics' schema.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::sheet::{Cell, Sheet};

/// Serializes as an array of objects.
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

/// What `stats --format json` prints.
#[derive(Debug, Serialize)]
pub struct StatsDocument {
    /// `llama-imatrix stats`.
    pub format: &'static str,
    /// 1.
    pub version: u32,
    /// The files, in the order given.
    pub files: Vec<StatsFile>,
}

/// One matrix.
#[derive(Debug, Serialize)]
pub struct StatsFile {
    /// The file's name, as given.
    pub file: String,
    /// Whether it is a legacy `.dat`.
    pub legacy: bool,
    /// The calibration files it names.
    pub datasets: Vec<String>,
    /// Chunks it was collected over.
    pub chunk_count: i32,
    /// Tokens a chunk.
    pub chunk_size: i32,
    /// A row a weight.
    pub tensors: Sheet,
    /// A row a layer.
    pub layers: Sheet,
    /// What could not be computed.
    pub warnings: Vec<String>,
}

/// What `compare --format json` prints.
#[derive(Debug, Serialize)]
pub struct CompareDocument {
    /// `llama-imatrix compare`.
    pub format: &'static str,
    /// 1.
    pub version: u32,
    /// The first file, A.
    pub first: String,
    /// Each other file against it.
    pub comparisons: Vec<CompareFile>,
}

/// One matrix against the first.
#[derive(Debug, Serialize)]
pub struct CompareFile {
    /// The second file, B.
    pub second: String,
    /// A row a weight, those that differ most first.
    pub tensors: Sheet,
    /// A row a layer, likewise.
    pub layers: Sheet,
}
