//! Sheets of a lens file.

use super::sheet::{Cell, Heading, Sheet};
use crate::lens::file::{Addition, LensFile, LensPoint, Part, Section, Spread};

/// A section of a lens file: its title, and its results or the reason why there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct LensTable {
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
            let layers = lens.layers.iter().map(|l| (Cell::Count(l.layer.into()), &l.point));
            Sheet { headings: LENS.to_vec(), rows: points.chain(layers).map(lens_row).collect() }
        });
        let last = measured(section).ok().and_then(|lens| lens.layers.last());
        let note = last.map(|last| format!("Mean KL of the last layer: {:.3e}", last.point.kl.mean));
        tables.push(LensTable { title: format!("Logit lens ({sampled}{base})"), sheet, note });
    }
    if let Some(section) = &file.prism {
        let sheet = measured(section).map(|prism| {
            let row = |part: &crate::lens::file::PrismPart| {
                let mut row = vec![Cell::count(part.layer), Cell::Text(name(part.part).to_owned())];
                row.extend([part.raw, part.relative].iter().flat_map(addition));
                row
            };
            Sheet { headings: PRISM.to_vec(), rows: prism.parts.iter().map(row).collect() }
        });
        let note = measured(section).ok().map(|prism| {
            format!("Largest relative error of the parts' sum: {:.3e}", prism.sum_check.max_relative_error)
        });
        tables.push(LensTable { title: format!("Logit prism ({sampled})"), sheet, note });
    }
    if let Some(section) = &file.similarity {
        let sheet = measured(section).map(|similarity| {
            let mean = |spread: &Option<Spread>| spread.map_or(Cell::Missing, |s| Cell::Number(s.mean));
            let row = |l: &crate::lens::file::SimilarityLayer| {
                let whole = [l.whole.mean, l.whole.p5, l.whole.p50, l.whole.p95].map(Cell::Number);
                let mut row = vec![Cell::Count(l.layer.into())];
                row.extend(whole);
                row.extend([mean(&l.attention), mean(&l.feed_forward)]);
                row
            };
            Sheet { headings: SIMILARITY.to_vec(), rows: similarity.layers.iter().map(row).collect() }
        });
        tables.push(LensTable { title: format!("Layer similarity ({sampled})"), sheet, note: None });
    }
    tables
}

fn measured<T>(section: &Section<T>) -> Result<&T, String> {
    match section {
        Section::Measured(measured) => Ok(measured),
        Section::Unsupported { unsupported } => Err(unsupported.clone()),
    }
}

const LENS: [Heading; 8] = [
    Heading::new("layer", "Layer", 0),
    Heading::new("kl", "KL", 5),
    Heading::new("kl_p5", "5 %", 5),
    Heading::new("kl_p50", "Median", 5),
    Heading::new("kl_p95", "95 %", 5),
    Heading::new("kl_reduction", "Reduction", 5),
    Heading::new("top1_agreement", "Top-1", 4),
    Heading::new("target_nll", "NLL", 5),
];

fn lens_row((label, point): (Cell, &LensPoint)) -> Vec<Cell> {
    let kl = &point.kl;
    let numbers = [kl.mean, kl.p5, kl.p50, kl.p95, point.kl_reduction, point.top1_agreement, point.target_nll];
    std::iter::once(label).chain(numbers.map(Cell::Number)).collect()
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

const SIMILARITY: [Heading; 7] = [
    Heading::new("layer", "Layer", 0),
    Heading::new("whole", "Cosine", 5),
    Heading::new("whole_p5", "5 %", 5),
    Heading::new("whole_p50", "Median", 5),
    Heading::new("whole_p95", "95 %", 5),
    Heading::new("attention", "Attention", 5),
    Heading::new("feed_forward", "Feed-forward", 5),
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
        assert!(tables[0].note.as_ref().unwrap().starts_with("Mean KL of the last layer: "));
        assert!(tables[1].note.as_ref().unwrap().contains("error of the parts' sum"));
    }
}
