//! PNG plots of matrices for papers and issues: drawn as SVG, with a compiled-in font, and rendered by resvg.

mod axis;
mod curves;
mod grid;
mod svg;

use std::path::{Path, PathBuf};

use super::page::{NamedCurve, Source};
use super::sheet::Cell;
use super::statistics::STATISTICS;
use crate::atomic_file;
use crate::lens::file::{Lens, LensFile, Part, Prism, Section, Similarity, Spread};
use crate::stats::{Spectrum, Summary};
use axis::Kind;
use curves::{Curve, Curves};
use grid::{Grid, Missing};
use svg::Svg;

/// Statistics that have a heat map of layers and kinds of weights.
const HEATMAPS: [&str; 6] = ["sum_sq", "h_norm", "top1_energy", "zd3", "mean_to_rms", "cossim"];
/// Number of points of a spectrum.
const POINTS: usize = 256;

/// The reason why a plot could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No matrix has the requested weight.
    #[error("no matrix has the weight '{0}'")]
    NoTensor(String),
    /// The folder does not exist and cannot be created.
    #[error("cannot create the folder '{path}'")]
    Folder {
        /// The folder.
        path: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Drawing or writing failed.
    #[error("cannot draw '{path}': {reason}")]
    Draw {
        /// The file.
        path: String,
        /// The reason.
        reason: String,
    },
}

/// Writes every plot that has data to `folder`, which is created if necessary. Returns the written files.
///
/// `tensor` is the weight whose channels are plotted; by default the first.
///
/// # Errors
/// A weight that no matrix has; a file or folder that cannot be written.
pub fn write_all(
    folder: &Path,
    sources: &[Source],
    recipes: &[NamedCurve],
    tensor: Option<&str>,
) -> Result<Vec<PathBuf>, Error> {
    if let Some(name) = tensor.filter(|&name| sources.iter().all(|source| !source.imatrix.entries.contains_key(name))) {
        return Err(Error::NoTensor(name.to_owned()));
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::Folder { path: folder.display().to_string(), source })?;
    let mut out = Pictures { folder, written: Vec::new() };
    let summaries: Vec<Summary> = sources.iter().map(|s| Summary::new(&s.imatrix)).collect();
    out.layers(sources, &summaries)?;
    out.channels(sources, &summaries, tensor)?;
    out.recipes(recipes)?;
    for (i, (source, summary)) in sources.iter().zip(&summaries).enumerate() {
        // Files with the same name in different folders must not overwrite each other's plots.
        let prefix = if sources.len() > 1 { format!("{}-", i + 1) } else { String::new() };
        out.heatmaps(&prefix, source, summary)?;
        out.experts(&prefix, source, summary)?;
        if let Some(lens) = &source.lens {
            out.lens_file(&prefix, lens)?;
        }
    }
    Ok(out.written)
}

struct Pictures<'a> {
    folder: &'a Path,
    written: Vec<PathBuf>,
}

impl Pictures<'_> {
    /// Writes a picture. Without one, there was nothing to draw.
    fn write(&mut self, name: &str, picture: Option<Svg>) -> Result<(), Error> {
        let Some(picture) = picture else { return Ok(()) };
        let path = self.folder.join(format!("{name}.png"));
        let failed = |reason| Error::Draw { path: path.display().to_string(), reason };
        let bytes = picture.to_png().map_err(failed)?;
        atomic_file::save(&path, |out| out.write_all(&bytes)).map_err(|error| failed(error.to_string()))?;
        self.written.push(path);
        Ok(())
    }

    fn layers(&mut self, sources: &[Source], summaries: &[Summary]) -> Result<(), Error> {
        type Get = fn(&crate::stats::LayerSummary) -> f64;
        let pictures: [(&str, &str, (Kind, &str), Get); 4] = [
            ("layers-cossim", "Cosine similarity with the preceding layer", (Kind::Linear, "cosine"), |l| {
                l.stats.cossim.into()
            }),
            ("layers-gain", "Gain over the preceding layer", (Kind::Linear, "gain"), |l| l.stats.gain.into()),
            ("layers-energy", "Energy per layer", (Kind::Log, "sum of the mean squares"), |l| l.sum),
            ("layers-balance", "Load balance of the experts", (Kind::Linear, "balance, 1 = even"), |l| l.balance),
        ];
        for (name, title, y, get) in pictures {
            let curves = sources.iter().zip(summaries).map(|(source, summary)| Curve {
                label: source.name.clone(),
                points: summary.layers.iter().map(|l| (f64::from(l.block), get(l))).collect(),
                band: Vec::new(),
            });
            let picture = Curves { title: title.into(), x: (Kind::Whole, "layer"), y, lines: curves.collect() };
            self.write(name, picture.draw())?;
        }
        Ok(())
    }

    fn recipes(&mut self, recipes: &[NamedCurve]) -> Result<(), Error> {
        let line = |named: &NamedCurve| Curve {
            label: named.name.clone(),
            points: named.curve.points.iter().map(|p| (p.bits, p.cost)).collect(),
            band: Vec::new(),
        };
        let picture = Curves {
            title: "Least expected cost of a recipe at each size".into(),
            x: (Kind::Linear, "bits per weight"),
            y: (Kind::Log, "cost"),
            lines: recipes.iter().map(line).collect(),
        };
        self.write("recipes", picture.draw())
    }

    fn channels(&mut self, sources: &[Source], summaries: &[Summary], tensor: Option<&str>) -> Result<(), Error> {
        let first = || summaries.iter().flat_map(|s| &s.tensors).map(|t| t.stats.tensor.as_str()).next();
        let Some(name) = tensor.or_else(first) else { return Ok(()) };
        let mut lines = Vec::new();
        for source in sources {
            let Some(entry) = source.imatrix.entries.get(name) else { continue };
            let s = Spectrum::new(entry, POINTS);
            let points = s.ranks.iter().map(|&r| r as f64).zip(s.relative).collect();
            lines.push(Curve { label: source.name.clone(), points, band: Vec::new() });
        }
        if lines.is_empty() {
            return Err(Error::NoTensor(name.to_owned()));
        }
        let picture = Curves {
            title: format!("Mean squares of the channels of {name}"),
            x: (Kind::Log, "channel, by its rank"),
            y: (Kind::Log, "mean square, relative to the mean channel"),
            lines,
        };
        self.write("channels", picture.draw())
    }

    fn heatmaps(&mut self, prefix: &str, source: &Source, summary: &Summary) -> Result<(), Error> {
        let mut layers: Vec<&str> = summary.tensors.iter().map(|t| t.layer.as_str()).collect();
        layers.dedup();
        let mut kinds = summary.kinds();
        kinds.sort_unstable();
        for statistic in STATISTICS.iter().filter(|s| HEATMAPS.contains(&s.heading.key)) {
            let mut values = vec![f64::NAN; kinds.len() * layers.len()];
            for t in &summary.tensors {
                let row = kinds.iter().position(|k| *k == t.kind);
                let column = layers.iter().position(|l| *l == t.layer);
                if let (Some(row), Some(column), Cell::Number(x)) = (row, column, (statistic.of)(t)) {
                    values[row * layers.len() + column] = x;
                }
            }
            if values.iter().all(|x| !x.is_finite()) {
                continue;
            }
            let picture = Grid {
                title: source.name.clone(),
                x: "layer",
                y: "weight",
                rows: &kinds,
                columns: &layers,
                values: &values,
                unit: statistic.about,
                missing: Missing::NoValue,
            };
            self.write(&format!("{prefix}heatmap-{}", statistic.heading.key), picture.draw())?;
        }
        Ok(())
    }

    /// Plots the rows per expert, divided by an equal share, for the first kind of weight that has experts.
    fn experts(&mut self, prefix: &str, source: &Source, summary: &Summary) -> Result<(), Error> {
        let Some(kind) = summary.tensors.iter().find(|t| t.experts.is_some()).map(|t| &t.kind) else { return Ok(()) };
        let of_kind: Vec<_> = summary.tensors.iter().filter(|t| t.kind == *kind && t.experts.is_some()).collect();
        let counts = |name: &str| source.imatrix.entries.get(name).map_or(&[][..], |e| &e.counts);
        let width = of_kind.iter().map(|t| counts(&t.stats.tensor).len()).max().unwrap_or(0);
        let mut values = vec![f64::NAN; of_kind.len() * width];
        for (row, t) in of_kind.iter().enumerate() {
            let counts = counts(&t.stats.tensor);
            let share = counts.iter().map(|&c| c as f64).sum::<f64>() / counts.len().max(1) as f64;
            for (column, &c) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
                values[row * width + column] = c as f64 / share;
            }
        }
        let layers: Vec<&str> = of_kind.iter().map(|t| t.layer.as_str()).collect();
        let numbers: Vec<String> = (0..width).map(|i| i.to_string()).collect();
        let experts: Vec<&str> = numbers.iter().map(String::as_str).collect();
        let picture = Grid {
            title: source.name.clone(),
            x: "expert",
            y: "layer",
            rows: &layers,
            columns: &experts,
            values: &values,
            unit: &format!("rows of {kind}, relative to an equal share"),
            missing: Missing::NoRows,
        };
        self.write(&format!("{prefix}experts"), picture.draw())
    }

    fn lens_file(&mut self, prefix: &str, file: &LensFile) -> Result<(), Error> {
        if let Some(Section::Measured(lens)) = &file.lens {
            self.write(&format!("{prefix}lens"), lens_curves(lens).draw())?;
        }
        if let Some(Section::Measured(prism)) = &file.prism {
            self.write(&format!("{prefix}prism"), prism_curves(prism).draw())?;
        }
        if let Some(Section::Measured(similarity)) = &file.similarity {
            self.write(&format!("{prefix}similarity"), similarity_curves(similarity).draw())?;
        }
        Ok(())
    }
}

fn lens_curves(lens: &Lens) -> Curves {
    let of = |get: fn(&Spread) -> f64| lens.layers.iter().map(move |l| (f64::from(l.layer), get(&l.point.kl)));
    let band = lens.layers.iter().map(|l| (f64::from(l.layer), l.point.kl.p25, l.point.kl.p75)).collect();
    let lines = vec![
        Curve { label: "median and quartiles".into(), points: of(|s| s.p50).collect(), band },
        Curve { label: "mean".into(), points: of(|s| s.mean).collect(), band: Vec::new() },
    ];
    Curves {
        title: "Logit lens".into(),
        x: (Kind::Whole, "layer"),
        y: (Kind::Linear, "KL(final ‖ layer), nats"),
        lines,
    }
}

fn prism_curves(prism: &Prism) -> Curves {
    let parts = [
        (Part::Attention, "attention"),
        (Part::FeedForward, "feed-forward"),
        (Part::SharedExperts, "shared experts"),
        (Part::RoutedExperts, "routed experts"),
    ];
    let curve = |(part, label): (Part, &str)| Curve {
        label: label.to_owned(),
        points: prism
            .next_token
            .parts
            .iter()
            .filter(|p| p.part == part)
            .filter_map(|p| Some((f64::from(p.layer?), p.relative.mean)))
            .collect(),
        band: Vec::new(),
    };
    let whole = prism.next_token.layers.iter().map(|l| (f64::from(l.layer), l.relative.mean)).collect();
    let whole = Curve { label: "the whole layer".into(), points: whole, band: Vec::new() };
    let lines = parts.into_iter().map(curve).chain([whole]).collect();
    Curves {
        title: "Logit prism: contributions to the logit of the next token".into(),
        x: (Kind::Whole, "layer"),
        y: (Kind::Linear, "logit, minus the vocabulary's mean"),
        lines,
    }
}

fn similarity_curves(similarity: &Similarity) -> Curves {
    let layers = &similarity.layers;
    let points = |get: &dyn Fn(usize) -> Option<Spread>| {
        layers.iter().enumerate().filter_map(|(i, l)| Some((f64::from(l.layer), get(i)?.mean))).collect()
    };
    let band = layers.iter().map(|l| (f64::from(l.layer), l.whole.p25, l.whole.p75)).collect();
    let lines = vec![
        Curve { label: "layer and quartiles".into(), points: points(&|i| Some(layers[i].whole)), band },
        Curve { label: "attention".into(), points: points(&|i| layers[i].attention), band: Vec::new() },
        Curve { label: "feed-forward".into(), points: points(&|i| layers[i].feed_forward), band: Vec::new() },
    ];
    Curves {
        title: "Residual stream before and after".into(),
        x: (Kind::Whole, "layer"),
        y: (Kind::Linear, "cosine"),
        lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::{Entry, Imatrix};
    use crate::quantize::curve::{self as recipe, CurvePoint};

    #[test]
    fn plots_need_no_installed_font() {
        let mut imatrix = Imatrix::default();
        for layer in 0..3 {
            let entry = Entry { sum2: vec![4.0, 1.0, f32::NAN, 2.0], sum: Some(vec![1.0; 4]), counts: vec![2, 0] };
            imatrix.entries.insert(format!("blk.{layer}.ffn_up_exps.weight"), entry);
        }
        let source =
            Source { name: "λ.gguf".into(), imatrix, legacy: false, lens: None, convergence: None, notes: Vec::new() };
        let points = (0..9_u32).map(|i| CurvePoint { bytes: i.into(), bits: i.into(), cost: (8 - i).into() });
        let curve = NamedCurve { name: "λ.csv".into(), curve: recipe::Curve { points: points.collect() } };
        let folder = tempfile::tempdir().unwrap();
        let written = write_all(folder.path(), std::slice::from_ref(&source), &[curve], None).unwrap();
        let names: Vec<_> = written.iter().map(|p| p.file_stem().unwrap().to_str().unwrap()).collect();
        assert!(["experts", "channels", "recipes"].iter().all(|name| names.contains(name)), "{names:?}");
        for path in &written {
            assert_eq!(std::fs::read(path).unwrap().get(1..4), Some(&b"PNG"[..]), "{}", path.display());
        }
        let missing = write_all(folder.path(), &[source], &[], Some("none"));
        assert!(matches!(missing, Err(Error::NoTensor(_))));
        assert!(write_all(folder.path(), &[], &[], None).unwrap().is_empty());
    }
}
