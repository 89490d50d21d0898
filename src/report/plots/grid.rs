//! Heat maps.

use super::axis::{Axis, Kind};
use super::svg::{AXIS, Anchor, Svg, text_width};

const TOP: f64 = 70.0;
const FONT: f64 = 15.0;
const TITLE: f64 = 21.0;
/// Length of the colour bar.
const BAR: f64 = 320.0;
const NO_VALUE: &str = "#e9ecf1";
const NO_ROWS: &str = "#c2253b";

/// A heat map. `values` are row by row; NaN is no value.
pub(super) struct Grid<'a> {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) rows: &'a [&'a str],
    pub(super) columns: &'a [&'a str],
    pub(super) values: &'a [f64],
    /// What the numbers are, for the colour bar.
    pub(super) unit: &'a str,
    /// What a cell without a value means.
    pub(super) missing: Missing,
}

/// The meaning of a cell without a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    NoValue,
    /// An expert that no token was routed to: drawn as a warning.
    NoRows,
}

impl Missing {
    fn color(self) -> &'static str {
        match self {
            Self::NoValue => NO_VALUE,
            Self::NoRows => NO_ROWS,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::NoValue => "no value",
            Self::NoRows => "no rows",
        }
    }
}

impl Grid<'_> {
    /// Draws the heat map. Returns `None` if it has no cell.
    pub(super) fn draw(&self) -> Option<Svg> {
        let (columns, rows) = (self.columns.len(), self.rows.len());
        if columns == 0 || rows == 0 {
            return None;
        }
        let cell = [(1400.0 / columns as f64).clamp(3.0, 60.0), (900.0 / rows as f64).clamp(6.0, 30.0)];
        let (width, height) = (columns as f64 * cell[0], rows as f64 * cell[1]);
        let longest = self.rows.iter().map(|row| text_width(row, FONT)).fold(0.0, f64::max);
        let left = 52.0 + longest;
        let bottom = TOP + height;
        let content = width.max(BAR + 190.0).max(text_width(&self.title, TITLE) + 20.0 - left);
        let mut svg = Svg::new(left + content + 30.0, bottom + 130.0);
        svg.text([20.0, 32.0], TITLE, Anchor::Start, &self.title);

        let scale = Scale::new(self.values, [left, left + BAR]);
        // A gap between cells that are large enough for one.
        let gap = if cell[0] > 8.0 && cell[1] > 8.0 { 1.0 } else { 0.0 };
        for (i, &value) in self.values.iter().enumerate() {
            let at = [left + (i % columns) as f64 * cell[0], TOP + (i / columns) as f64 * cell[1]];
            let color = scale.color(value).unwrap_or_else(|| self.missing.color().to_owned());
            svg.rectangle(at, [cell[0] - gap, cell[1] - gap], &color);
        }
        for (row, name) in self.rows.iter().enumerate().step_by(every(16.0, cell[1])) {
            svg.text([left - 8.0, TOP + (row as f64 + 0.5) * cell[1]], FONT, Anchor::End, name);
        }
        let widest = self.columns.iter().map(|column| text_width(column, FONT)).fold(0.0, f64::max);
        for (column, name) in self.columns.iter().enumerate().step_by(every(widest + 10.0, cell[0])) {
            svg.text([left + (column as f64 + 0.5) * cell[0], bottom + 14.0], FONT, Anchor::Middle, name);
        }
        svg.text([left + width / 2.0, bottom + 38.0], FONT, Anchor::Middle, self.x);
        svg.upward([18.0, TOP + height / 2.0], FONT, self.y);
        scale.draw(&mut svg, [left, bottom + 62.0], self.unit);
        if self.values.iter().any(|value| scale.color(*value).is_none()) {
            let at = [left + BAR + 40.0, bottom + 62.0];
            svg.rectangle(at, [16.0, 16.0], self.missing.color());
            svg.text([at[0] + 24.0, at[1] + 8.0], FONT, Anchor::Start, self.missing.label());
        }
        Some(svg)
    }
}

/// Returns 1, 2 or 5 times a power of ten: every how many cells a label of `needed` pixels fits.
fn every(needed: f64, cell: f64) -> usize {
    let fits = (needed / cell).ceil() as usize;
    let powers = (0..9).map(|power| 10_usize.pow(power));
    powers.flat_map(|power| [power, 2 * power, 5 * power]).find(|step| *step >= fits).unwrap_or(fits.max(1))
}

/// A colour scale. It is logarithmic if the numbers span more than two powers of ten.
struct Scale {
    axis: Axis,
}

impl Scale {
    fn new(values: &[f64], pixels: [f64; 2]) -> Self {
        let finite = || values.iter().copied().filter(|x| x.is_finite());
        let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        let kind = if low > 0.0 && high / low > 100.0 { Kind::Log } else { Kind::Linear };
        Self { axis: Axis::exact(kind, finite(), pixels) }
    }

    fn color(&self, value: f64) -> Option<String> {
        self.axis.fraction(value).map(color)
    }

    /// The colour bar with its numbers, and what they are.
    fn draw(&self, svg: &mut Svg, [x, y]: [f64; 2], unit: &str) {
        for i in 0..BAR as usize {
            svg.rectangle([x + i as f64, y], [1.0, 16.0], &color(i as f64 / (BAR - 1.0)));
        }
        for (value, label) in self.axis.ticks(6) {
            let Some(at) = self.axis.at(value) else { continue };
            svg.rule([at, y + 16.0], [at, y + 21.0], AXIS);
            svg.text([at, y + 31.0], FONT, Anchor::Middle, &label);
        }
        svg.text([x, y + 54.0], FONT, Anchor::Start, unit);
    }
}

/// Returns the colour at a fraction of the scale.
fn color(fraction: f64) -> String {
    let (from, to) = ([237.0, 243.0, 253.0], [13.0, 59.0, 140.0]);
    let mix = |i: usize| (from[i] + (to[i] - from[i]) * fraction.clamp(0.0, 1.0)) as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}
