//! The tables of `llama-perplexity --kl-divergence`, to the byte, and a table per chunk or document.

use std::fmt::Write as _;

use super::printf::number;
use super::sheet::{Cell, Heading, Sheet};
use crate::quantize::divergence::{Divergence, Summary, Uncertain, median, percentile};

/// Upstream prints no statistics of fewer tokens.
const FEWEST: usize = 100;

/// The heading of the lines per chunk.
pub const CHUNK_HEADING: &str = "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p\n";

/// Returns the line after a chunk: all chunks so far, this one included.
#[must_use]
pub fn chunk_line(chunk: usize, all: &Divergence) -> String {
    let nll = all.nll();
    let perplexity = nll.value.exp();
    let mut line = format!("{chunk:4}");
    let mut add = |x: Uncertain, width: usize, decimals: usize, unit: &str| {
        let _ = write!(line, "    {} ± {}{unit}", number(x.value, width, decimals), number(x.error, width, decimals));
    };
    add(Uncertain { value: perplexity, error: perplexity * nll.error }, 9, 4, "");
    add(all.log_ratio(), 10, 5, "");
    add(all.divergence(), 10, 5, "");
    add(percent(all.rms_difference()), 6, 3, " %");
    add(percent(all.same_top()), 6, 3, " %");
    line + "\n"
}

fn percent(x: Uncertain) -> Uncertain {
    Uncertain { value: 100.0 * x.value, error: 100.0 * x.error }
}

/// Returns the statistics of a whole text; empty below 100 tokens.
#[must_use]
pub fn statistics(all: &Divergence) -> String {
    if all.count() < FEWEST {
        return String::new();
    }
    format!("{}\n{}\n{}", perplexities(all), divergences(all), differences(all))
}

/// Returns one row per part of a text, with the part's name; `title` names the kind of part.
#[must_use]
pub fn parts<'a>(title: &'static str, rows: impl Iterator<Item = (&'a str, &'a Summary)>) -> Sheet {
    let headings = [
        ("part", title, 0),
        ("tokens", "Tokens", 0),
        ("divergence", "KLD", 6),
        ("from", "95 % from", 6),
        ("to", "to", 6),
        ("divergence_median", "Median", 6),
        ("divergence_p99", "99 %", 6),
        ("same_top", "Same top %", 3),
        ("rms_difference", "RMS Δp %", 3),
        ("log_perplexity_ratio", "ln(PPL ratio)", 6),
    ];
    let row = |(name, part): (&str, &Summary)| {
        let [from, to] = part.divergence.interval();
        let numbers = [
            part.divergence.value,
            from,
            to,
            part.median.into(),
            part.p99.into(),
            100.0 * part.same_top.value,
            100.0 * part.rms_difference.value,
            part.log_ratio.value,
        ];
        let first = [Cell::Text(name.to_owned()), Cell::count(Some(part.tokens))];
        first.into_iter().chain(numbers.map(Cell::Number)).collect()
    };
    Sheet {
        headings: headings.map(|(key, title, decimals)| Heading::new(key, title, decimals)).to_vec(),
        rows: rows.map(row).collect(),
    }
}

fn perplexities(all: &Divergence) -> String {
    let mut text = String::from("====== Perplexity statistics ======\n");
    let (own, base, ratio) = (all.nll(), all.nll_base(), all.log_ratio());
    let exp = |x: Uncertain| Uncertain { value: x.value.exp(), error: x.value.exp() * x.error };
    let mut line = |name: &str, x: Uncertain| {
        let _ = writeln!(text, "{name:<30}: {} ± {}", number(x.value, 10, 6), number(x.error, 10, 6));
    };
    let (q, b) = (exp(own), exp(base));
    line("Mean PPL(Q)", q);
    line("Mean PPL(base)", b);
    let correlation = 100.0 * (all.covariance() / (own.error * base.error));
    let covariance = q.value * b.value * all.covariance();
    let variance = q.error * q.error + b.error * b.error - 2.0 * covariance;
    let _ = writeln!(text, "Cor(ln(PPL(Q)), ln(PPL(base))): {}%", number(correlation, 6, 2));
    let mut line = |name: &str, x: Uncertain| {
        let _ = writeln!(text, "{name:<30}: {} ± {}", number(x.value, 10, 6), number(x.error, 10, 6));
    };
    line("Mean ln(PPL(Q)/PPL(base))", ratio);
    line("Mean PPL(Q)/PPL(base)", exp(ratio));
    line("Mean PPL(Q)-PPL(base)", Uncertain { value: q.value - b.value, error: variance.sqrt() });
    text
}

fn divergences(all: &Divergence) -> String {
    let mut text = String::from("====== KL divergence statistics ======\n");
    let mean = all.divergence();
    let _ = writeln!(text, "Mean    KLD: {} ± {}", number(mean.value, 10, 6), number(mean.error, 10, 6));
    let sorted = all.sorted_divergences();
    for (name, value) in quantiles(&sorted).filter(|(name, _)| !QUARTILES.contains(name)) {
        let _ = writeln!(text, "{name} KLD: {}", number(value, 10, 6));
    }
    text
}

fn differences(all: &Divergence) -> String {
    let mut text = String::from("====== Token probability statistics ======\n");
    let uncertain = |x: Uncertain| format!("{} ± {} %", number(100.0 * x.value, 6, 3), number(100.0 * x.error, 5, 3));
    let _ = writeln!(text, "Mean    Δp: {}", uncertain(all.difference()));
    let sorted = all.sorted_differences();
    for (name, value) in quantiles(&sorted) {
        let _ = writeln!(text, "{name} Δp: {}%", number(100.0 * value, 6, 3));
    }
    let _ = writeln!(text, "RMS Δp    : {}", uncertain(all.rms_difference()));
    let _ = writeln!(text, "Same top p: {}", uncertain(all.same_top()));
    text
}

/// Quantiles that upstream prints for probabilities only.
const QUARTILES: [&str; 2] = ["75.0%  ", "25.0%  "];

/// Returns the names and values of the quantiles that upstream prints, from the largest to the smallest.
fn quantiles(sorted: &[f32]) -> impl Iterator<Item = (&'static str, f64)> {
    [
        ("Maximum", percentile(sorted, 1.0)),
        ("99.9%  ", percentile(sorted, 0.999)),
        ("99.0%  ", percentile(sorted, 0.990)),
        ("95.0%  ", percentile(sorted, 0.950)),
        ("90.0%  ", percentile(sorted, 0.900)),
        ("75.0%  ", percentile(sorted, 0.750)),
        ("Median ", median(sorted)),
        ("25.0%  ", percentile(sorted, 0.250)),
        ("10.0%  ", percentile(sorted, 0.100)),
        (" 5.0%  ", percentile(sorted, 0.050)),
        (" 1.0%  ", percentile(sorted, 0.010)),
        (" 0.1%  ", percentile(sorted, 0.001)),
        ("Minimum", percentile(sorted, 0.0)),
    ]
    .into_iter()
    .map(|(name, value)| (name, f64::from(value)))
}
