//! Sheets of a lens file.

use super::sheet::{Cell, Heading, Sheet};
use crate::lens::file::{Addition, Decomposition, LensFile, LensPoint, Part, Section, Spread};

/// What a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LensPart {
    /// The logit lens.
    Lens,
    /// The logit prism of the next token.
    Prism,
    /// The logit prism of the model's likeliest token.
    PrismOfLikeliest,
    /// Layer similarity.
    Similarity,
}

/// A section of a lens file: its title, and its results or the reason why there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct LensTable {
    /// What it shows.
    pub part: LensPart,
    /// Title of the section.
    pub title: String,
    /// Results, or the reason why there are none.
    pub sheet: Result<Sheet, String>,
    /// Line below the sheet.
    pub note: Option<String>,
}

/// Returns the sections of a lens file.
#[must_use]
pub fn tables(file: &LensFile) -> Vec<LensTable> {
    let p = &file.positions;
    let sampled = format!("{} positions of {} chunks", p.sampled, p.chunks);
    let mut tables = Vec::new();
    if let Some(section) = &file.lens {
        let base = match section {
            Section::Measured(lens) if lens.base != "model" => format!(", against {}", lens.base),
            _ => String::new(),
        };
        let sheet = measured(section).map(|lens| {
            let points = lens.embedding.iter().map(|point| (Cell::Text("embedding".to_owned()), point));
            let points = points.map(|(label, point)| lens_row(label, point, None));
            let layers =
                lens.layers.iter().map(|l| lens_row(Cell::Count(l.layer.into()), &l.point, l.after_attention.as_ref()));
            Sheet { headings: LENS.to_vec(), rows: points.chain(layers).collect() }
        });
        let last = measured(section).ok().and_then(|lens| lens.layers.last());
        let note = last.map(|last| format!("Mean KL of the last layer: {:.3e}", last.point.kl.mean));
        let title = format!("Logit lens ({sampled}{base})");
        tables.push(LensTable { part: LensPart::Lens, title, sheet, note });
    }
    if let Some(section) = &file.prism {
        let next = measured(section).map(|prism| &prism.next_token);
        tables.push(prism_table(LensPart::Prism, format!("Logit prism ({sampled})"), next));
        if let Some(likeliest) = measured(section).ok().and_then(|prism| prism.likeliest_token.as_ref()) {
            let title = format!("Logit prism of the model's likeliest token ({sampled})");
            tables.push(prism_table(LensPart::PrismOfLikeliest, title, Ok(likeliest)));
        }
    }
    if let Some(section) = &file.similarity {
        let sheet = measured(section).map(|similarity| {
            let mean = |spread: &Option<Spread>| spread.map_or(Cell::Missing, |s| Cell::Number(s.mean));
            let row = |l: &crate::lens::file::SimilarityLayer| {
                let whole = [l.whole.mean, l.whole.p5, l.whole.p50, l.whole.p95].map(Cell::Number);
                let mut row = vec![Cell::Count(l.layer.into())];
                row.extend(whole);
                row.extend([mean(&l.attention), mean(&l.feed_forward)]);
                let distance = l.distance.as_ref();
                row.push(mean(&distance.map(|d| d.whole)));
                row.push(mean(&distance.and_then(|d| d.attention)));
                row.push(mean(&distance.and_then(|d| d.feed_forward)));
                row
            };
            Sheet { headings: SIMILARITY.to_vec(), rows: similarity.layers.iter().map(row).collect() }
        });
        let title = format!("Layer similarity ({sampled})");
        tables.push(LensTable { part: LensPart::Similarity, title, sheet, note: None });
    }
    tables
}

fn measured<T>(section: &Section<T>) -> Result<&T, String> {
    match section {
        Section::Measured(measured) => Ok(measured),
        Section::Unsupported { unsupported } => Err(unsupported.clone()),
    }
}

const LENS: [Heading; 10] = [
    Heading::new("layer", "Layer", 0),
    Heading::new("kl", "KL", 5),
    Heading::new("kl_p5", "5 %", 5),
    Heading::new("kl_p50", "Median", 5),
    Heading::new("kl_p95", "95 %", 5),
    Heading::new("kl_reduction", "Reduction", 5),
    Heading::new("attention_kl_reduction", "Attention", 5),
    Heading::new("feed_forward_kl_reduction", "Feed-forward", 5),
    Heading::new("top1_agreement", "Top-1", 4),
    Heading::new("target_nll", "NLL", 5),
];

/// Returns the row of a point. `within` is the point between the layer's attention and feed-forward network, which splits
/// the reduction.
fn lens_row(label: Cell, point: &LensPoint, within: Option<&LensPoint>) -> Vec<Cell> {
    let kl = &point.kl;
    let mut row = vec![label];
    row.extend([kl.mean, kl.p5, kl.p50, kl.p95, point.kl_reduction].map(Cell::Number));
    row.push(within.map_or(Cell::Missing, |within| Cell::Number(within.kl_reduction)));
    row.push(within.map_or(Cell::Missing, |within| Cell::Number(within.kl.mean - kl.mean)));
    row.extend([point.top1_agreement, point.target_nll].map(Cell::Number));
    row
}

/// Returns the parts of a logit, with a row for each whole layer after its parts.
fn prism_table(part: LensPart, title: String, prism: Result<&Decomposition, String>) -> LensTable {
    let row = |layer: Option<u32>, name: &str, raw: Addition, relative: Addition| {
        let mut row = vec![Cell::count(layer), Cell::Text(name.to_owned())];
        row.extend([raw, relative].iter().flat_map(addition));
        row
    };
    let sheet = prism.as_ref().map_err(Clone::clone).map(|prism| {
        let mut rows = Vec::new();
        for (i, part) in prism.parts.iter().enumerate() {
            rows.push(row(part.layer, name(part.part), part.raw, part.relative));
            let is_last = prism.parts.get(i + 1).is_none_or(|next| next.layer != part.layer);
            let layer = prism.layers.iter().find(|layer| Some(layer.layer) == part.layer).filter(|_| is_last);
            rows.extend(layer.map(|layer| row(part.layer, "whole layer", layer.raw, layer.relative)));
        }
        Sheet { headings: PRISM.to_vec(), rows }
    });
    let error = |prism: &Decomposition| {
        format!("Largest relative error of the parts' sum: {:.3e}", prism.sum_check.max_relative_error)
    };
    LensTable { part, title, sheet, note: prism.ok().map(error) }
}

const PRISM: [Heading; 8] = [
    Heading::new("layer", "Layer", 0),
    Heading::new("part", "Part", 0),
    Heading::new("raw_mean", "Raw", 5),
    Heading::new("raw_mean_abs", "Absolute", 5),
    Heading::new("raw_share", "Share", 4),
    Heading::new("relative_mean", "Relative", 5),
    Heading::new("relative_mean_abs", "Absolute", 5),
    Heading::new("relative_share", "Share", 4),
];

fn addition(addition: &Addition) -> [Cell; 3] {
    [addition.mean, addition.mean_abs, addition.share].map(Cell::Number)
}

/// Returns the name of a part. Details of another part are indented.
fn name(part: Part) -> &'static str {
    match part {
        Part::Embedding => "embedding",
        Part::Attention => "attention",
        Part::FeedForward => "feed-forward",
        Part::SharedExperts => "  shared experts",
        Part::RoutedExperts => "  routed experts",
        Part::Other => "other",
        Part::NormBias => "norm bias",
        Part::OutputBias => "output bias",
        Part::Rounding => "rounding",
    }
}

const SIMILARITY: [Heading; 10] = [
    Heading::new("layer", "Layer", 0),
    Heading::new("whole", "Cosine", 5),
    Heading::new("whole_p5", "5 %", 5),
    Heading::new("whole_p50", "Median", 5),
    Heading::new("whole_p95", "95 %", 5),
    Heading::new("attention", "Attention", 5),
    Heading::new("feed_forward", "Feed-forward", 5),
    Heading::new("distance", "Distance", 5),
    Heading::new("attention_distance", "Attention", 5),
    Heading::new("feed_forward_distance", "Feed-forward", 5),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::text::aligned;

    #[test]
    fn every_section_has_a_table() {
        let file = LensFile::parse(include_bytes!("../../tests/data/report/first.lens.json")).unwrap();
        let tables = tables(&file);
        assert_eq!(tables.len(), 3);
        for table in &tables {
            let Ok(sheet) = &table.sheet else { continue };
            assert!(sheet.rows.iter().all(|row| row.len() == sheet.headings.len()), "{}", table.title);
            assert!(aligned(sheet).lines().count() > 3);
        }
        // Files of earlier versions lack the later columns' numbers.
        assert!(tables[2].sheet.as_ref().is_ok_and(|sheet| sheet.rows.iter().all(|row| row[7] == Cell::Missing)));
        assert!(tables[0].note.as_ref().unwrap().starts_with("Mean KL of the last layer: "));
        assert!(tables[1].note.as_ref().unwrap().contains("error of the parts' sum"));
    }
}
