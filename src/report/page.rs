//! The page to look at: one file of HTML with its data, styles and scripts within, which loads nothing.
//!
//! The data is JSON in the page; scripts of ours make tables and heat maps of it (real tables, so that they can be read
//! and walked through without seeing them), uPlot the curves.

mod data;

use std::fmt::Write as _;

use crate::imatrix::Imatrix;
use crate::lens::file::LensFile;

/// A matrix to be shown.
#[derive(Clone, Debug)]
pub struct Source {
    /// How it is called in the page.
    pub name: String,
    /// The matrix.
    pub imatrix: Imatrix,
    /// Whether it comes from a legacy file.
    pub legacy: bool,
    /// What a run found out about the layers.
    pub lens: Option<LensFile>,
    /// What the reader should know, such as a lens file that could not be read.
    pub notes: Vec<String>,
}

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const UPLOT_STYLE: &str = include_str!("../../assets/report/uplot/uPlot.min.css");
const UPLOT: &str = include_str!("../../assets/report/uplot/uPlot.iife.min.js");
const UPLOT_LICENCE: &str = include_str!("../../assets/report/uplot/LICENSE");
const SCRIPTS: [&str; 7] = [
    include_str!("page/base.js"),
    include_str!("page/tables.js"),
    include_str!("page/charts.js"),
    include_str!("page/heatmap.js"),
    include_str!("page/layers.js"),
    include_str!("page/channels.js"),
    include_str!("page/main.js"),
];

/// The page. The first matrix is what the others are compared with.
///
/// # Errors
/// None that is known: serializing numbers and words cannot fail.
pub fn page(sources: &[Source], title: &str) -> serde_json::Result<String> {
    let data = script_safe(&serde_json::to_string(&data::Data::new(sources))?);
    let mut out = String::with_capacity(data.len() + UPLOT.len() + TEMPLATE.len() + (1 << 16));
    let mut rest = TEMPLATE;
    // One pass, so that nothing in the data is taken for a placeholder.
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

/// JSON that cannot end the element it stands in.
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

    fn source(name: &str, sum2: &[f32], counts: &[i64]) -> Source {
        let mut imatrix = Imatrix::default();
        let entry = Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() };
        imatrix.entries.insert("blk.0.ffn_up_exps.weight".into(), entry);
        Source { name: name.into(), imatrix, legacy: true, lens: None, notes: Vec::new() }
    }

    fn data(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn names_stay_names() {
        let hostile = "</script><script>alert(1)</script>{{data}}";
        let page = page(&[source(hostile, &[1.0, 2.0], &[1, 0])], hostile).unwrap();
        assert!(!page.contains("<script>alert"), "a name got into the page as it is");
        assert_eq!(data(&page)["files"][0]["name"], hostile);
    }

    #[test]
    fn it_loads_nothing() {
        let page = page(&[source("a", &[1.0], &[1])], "t").unwrap();
        for outside in ["src=\"", "href=\"http", "@import", "url(", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn two_files_are_compared_and_empty_ones_shown() {
        let sources =
            [source("a", &[1.0, 2.0], &[1, 0]), source("b", &[1.0, f32::NAN], &[1, 1]), source("c", &[], &[])];
        let data = data(&page(&sources, "t").unwrap());
        assert_eq!(data["comparisons"].as_array().unwrap().len(), 2);
        assert_eq!(data["files"][0]["experts"][0]["rows"][0]["counts"], serde_json::json!([1, 0]));
        assert_eq!(data["files"][2]["tensors"]["rows"].as_array().unwrap().len(), 0);
        assert!(data["files"][1]["notes"][0].as_str().unwrap().contains("not finite"));
    }
}
