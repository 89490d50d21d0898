//! The comparisons per chunk and per document.

use std::fmt::Write as _;

use llama_imatrix::quantize::divergence::{Divergence, Summary, Uncertain, over_parts};
use llama_imatrix::report::divergence as report;
use llama_imatrix::report::text::aligned;

use super::Part;
use crate::run::models::Text;

/// Comparisons as they come, chunk by chunk.
pub(super) struct Parts {
    candidates: Vec<Compared>,
    /// The document of the last chunk, and its comparison so far per candidate.
    open: Option<(usize, Vec<Divergence>)>,
}

/// The parts of the text, as one candidate predicts them.
#[derive(Default)]
pub(super) struct Compared {
    pub(super) chunks: Vec<Row>,
    pub(super) documents: Vec<Row>,
}

/// A chunk or a document.
pub(super) struct Row {
    /// Number of the chunk from 1, or the document's file and line.
    pub(super) name: String,
    /// Number of the chunk or of the document, from 0.
    number: usize,
    pub(super) summary: Summary,
}

impl Parts {
    pub(super) fn new(n_candidates: usize) -> Self {
        Self { candidates: (0..n_candidates).map(|_| Compared::default()).collect(), open: None }
    }

    /// Adds a chunk: one comparison per candidate. Chunks of a document follow each other.
    pub(super) fn add(&mut self, number: usize, document: Option<usize>, own: &[Divergence]) {
        for (compared, own) in self.candidates.iter_mut().zip(own) {
            compared.chunks.push(Row { name: (number + 1).to_string(), number, summary: own.into() });
        }
        let Some(document) = document else { return };
        match &mut self.open {
            Some((open, sums)) if *open == document => sums.iter_mut().zip(own).for_each(|(sum, own)| sum.append(own)),
            _ => {
                self.close();
                self.open = Some((document, own.to_vec()));
            }
        }
    }

    fn close(&mut self) {
        let Some((number, sums)) = self.open.take() else { return };
        for (compared, sum) in self.candidates.iter_mut().zip(&sums) {
            compared.documents.push(Row { name: String::new(), number, summary: sum.into() });
        }
    }

    /// Names the documents, and returns the parts per candidate.
    pub(super) fn finish(mut self, text: &Text) -> Vec<Compared> {
        self.close();
        for row in self.candidates.iter_mut().flat_map(|compared| &mut compared.documents) {
            row.name = text.documents.get(row.number).cloned().unwrap_or_default();
        }
        self.candidates
    }
}

impl Compared {
    fn rows(&self, part: Part) -> &[Row] {
        match part {
            Part::Chunk => &self.chunks,
            Part::Document => &self.documents,
        }
    }

    /// Returns the mean divergence with the error that these parts show, if there are enough of them.
    pub(super) fn over(&self, part: Part) -> Option<Uncertain> {
        over_parts(self.rows(part).iter().map(|row| &row.summary))
    }

    /// Returns the table of these parts, and the interval that they show.
    pub(super) fn table(&self, part: Part) -> String {
        let (title, plural) = match part {
            Part::Chunk => ("Chunk", "chunks"),
            Part::Document => ("Document", "documents"),
        };
        let rows = self.rows(part).iter().map(|row| (row.name.as_str(), &row.summary));
        let mut text = aligned(&report::parts(title, rows));
        if let Some(mean) = self.over(part) {
            let [from, to] = mean.interval();
            let _ = writeln!(
                text,
                "\nMean KLD {:.6}, 95 % interval {from:.6} to {to:.6} with {} {plural} as samples",
                mean.value,
                self.rows(part).len()
            );
        }
        text
    }
}
