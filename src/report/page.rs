//! The HTML page: one file that contains its data, styles and scripts, and loads nothing.
//!
//! The data is JSON in the page. Our scripts turn it into tables and heat maps (HTML tables, so that screen readers can
//! read them); uPlot draws the curves.

mod data;

use std::fmt::Write as _;

use crate::convergence::ConvergenceFile;
use crate::imatrix::Imatrix;
use crate::lens::file::LensFile;
use crate::quantize::curve::Curve;

/// A matrix on the page.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name on the page.
    pub name: String,
    /// Matrix.
    pub imatrix: Imatrix,
    /// True if it comes from a legacy file.
    pub legacy: bool,
    /// Lens file of the run, if any.
    pub lens: Option<LensFile>,
    /// Comparison of the halves of its text, if any.
    pub convergence: Option<ConvergenceFile>,
    /// Notes for the reader, such as a lens file that could not be read.
    pub notes: Vec<String>,
}

/// A curve of least cost on the page.
#[derive(Clone, Debug)]
pub struct NamedCurve {
    /// Name on the page.
    pub name: String,
    /// Curve.
    pub curve: Curve,
}

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const UPLOT_STYLE: &str = include_str!("../../assets/report/uplot/uPlot.min.css");
const UPLOT: &str = include_str!("../../assets/report/uplot/uPlot.iife.min.js");
const UPLOT_LICENCE: &str = include_str!("../../assets/report/uplot/LICENSE");
const SCRIPTS: [&str; 9] = [
    include_str!("page/base.js"),
    include_str!("page/tables.js"),
    include_str!("page/charts.js"),
    include_str!("page/heatmap.js"),
    include_str!("page/layers.js"),
    include_str!("page/channels.js"),
    include_str!("page/convergence.js"),
    include_str!("page/recipes.js"),
    include_str!("page/main.js"),
];

/// Creates the page. The first matrix is compared with each of the others. `curves` are drawn in one chart.
///
/// # Errors
/// An error of serialization, which does not occur for numbers and text.
pub fn page(sources: &[Source], curves: &[NamedCurve], title: &str) -> serde_json::Result<String> {
    let data = script_safe(&serde_json::to_string(&data::Data::new(sources, curves))?);
    let mut out = String::with_capacity(data.len() + UPLOT.len() + TEMPLATE.len() + (1 << 16));
    let mut rest = TEMPLATE;
    // In one pass, so that text in the data is never taken for a placeholder.
    while let Some((before, after)) = rest.split_once("{{") {
        out += before;
        let (key, after) = after.split_once("}}").unwrap_or((after, ""));
        match key {
            "title" => out += &escaped(title),
            "style" => {
                out += UPLOT_STYLE;
                out += STYLE;
            }
            "data" => out += &data,
            "uplot" => {
                let _ = write!(out, "/*\nuPlot 1.6.32\n\n{UPLOT_LICENCE}*/\n{UPLOT}");
            }
            "script" => SCRIPTS.iter().for_each(|script| out += script),
            _ => {}
        }
        rest = after;
    }
    out += rest;
    Ok(out)
}

/// Escapes JSON so that it cannot close its script element.
fn script_safe(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::Entry;
    use crate::quantize::curve::CurvePoint;

    fn source(name: &str, sum2: &[f32], counts: &[i64]) -> Source {
        let mut imatrix = Imatrix::default();
        let entry = Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() };
        imatrix.entries.insert("blk.0.ffn_up_exps.weight".into(), entry);
        Source { name: name.into(), imatrix, legacy: true, lens: None, convergence: None, notes: Vec::new() }
    }

    fn data(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn names_are_escaped() {
        let hostile = "</script><script>alert(1)</script>{{data}}";
        let points = (0..1001).map(|i| CurvePoint { bytes: 1000 + i, bits: i as f64, cost: 1.0 / (i + 1) as f64 });
        let curve = NamedCurve { name: hostile.into(), curve: Curve { points: points.collect() } };
        let page = page(&[source(hostile, &[1.0, 2.0], &[1, 0])], &[curve], hostile).unwrap();
        assert!(!page.contains("<script>alert"), "a name is in the page without escaping");
        assert_eq!(data(&page)["files"][0]["name"], hostile);
        let curve = &data(&page)["recipes"][0];
        let bytes = curve["bytes"].as_array().unwrap();
        assert_eq!((&curve["name"], &bytes[0], bytes.last().unwrap()), (&hostile.into(), &1000.into(), &2000.into()));
        assert!(bytes.len() <= 400 && bytes.len() == curve["cost"].as_array().unwrap().len(), "{}", bytes.len());
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page(&[source("a", &[1.0], &[1])], &[], "t").unwrap();
        for outside in ["src=\"", "href=\"http", "@import", "url(", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn files_are_compared_with_the_first_and_empty_files_are_listed() {
        let sources =
            [source("a", &[1.0, 2.0], &[1, 0]), source("b", &[1.0, f32::NAN], &[1, 1]), source("c", &[], &[])];
        let data = data(&page(&sources, &[], "t").unwrap());
        assert_eq!(data["comparisons"].as_array().unwrap().len(), 2);
        assert_eq!(data["files"][0]["experts"][0]["rows"][0]["counts"], serde_json::json!([1, 0]));
        assert_eq!(data["files"][2]["tensors"]["rows"].as_array().unwrap().len(), 0);
        assert!(data["files"][1]["notes"][0].as_str().unwrap().contains("not finite"));
    }
}
