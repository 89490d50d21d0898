//! Plots of lines.

use super::axis::{Axis, Kind};
use super::svg::{AXIS, Anchor, LINE, Svg, text_width};

const COLORS: [&str; 6] = ["#2a62d4", "#d2601a", "#16876a", "#9440ad", "#a07b00", "#56657a"];
const SIZE: [f64; 2] = [1200.0, 640.0];
const TOP: f64 = 66.0;
const RIGHT: f64 = 30.0;
/// Below the plot: the labels of the x axis and its title.
const BELOW: f64 = 74.0;
const FONT: f64 = 16.0;
/// Height of an entry of the legend.
const ENTRY: f64 = 24.0;

/// A line and a band around it, as (x, lower, upper).
pub(super) struct Curve {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) band: Vec<(f64, f64, f64)>,
}

/// A plot of lines. `x` and `y` are the kinds and titles of the axes.
pub(super) struct Curves {
    pub(super) title: String,
    pub(super) x: (Kind, &'static str),
    pub(super) y: (Kind, &'static str),
    pub(super) lines: Vec<Curve>,
}

impl Curves {
    /// Draws the plot. Returns `None` if no line has a point.
    pub(super) fn draw(&self) -> Option<Svg> {
        let lines: Vec<&Curve> = self.lines.iter().filter(|c| c.points.iter().any(|p| p.1.is_finite())).collect();
        if lines.is_empty() {
            return None;
        }
        let bottom = SIZE[1] - BELOW;
        let ys = |curve: &&Curve| {
            let band = curve.band.iter().flat_map(|&(_, lower, upper)| [lower, upper]);
            curve.points.iter().map(|p| p.1).chain(band).collect::<Vec<_>>()
        };
        let y = Axis::new(self.y.0, lines.iter().flat_map(ys), [bottom, TOP]);
        let y_ticks = y.ticks(8);
        let left = 46.0 + y_ticks.iter().map(|tick| text_width(&tick.1, FONT)).fold(0.0, f64::max);
        let right = SIZE[0] - RIGHT;
        let x = Axis::new(self.x.0, lines.iter().flat_map(|c| c.points.iter().map(|p| p.0)), [left, right]);

        let legend = if lines.len() > 1 { ENTRY * lines.len() as f64 } else { 0.0 };
        let mut svg = Svg::new(SIZE[0], SIZE[1] + legend);
        svg.text([f64::midpoint(left, right), 32.0], 22.0, Anchor::Middle, &self.title);
        for (value, label) in &y_ticks {
            let Some(at) = y.at(*value) else { continue };
            svg.rule([left, at], [right, at], LINE);
            svg.text([left - 8.0, at], FONT, Anchor::End, label);
        }
        for (value, label) in x.ticks(12) {
            let Some(at) = x.at(value) else { continue };
            svg.rule([at, TOP], [at, bottom + 5.0], LINE);
            svg.text([at, bottom + 18.0], FONT, Anchor::Middle, &label);
        }
        svg.rule([left, TOP], [left, bottom], AXIS);
        svg.rule([left, bottom], [right, bottom], AXIS);
        svg.text([f64::midpoint(left, right), bottom + 48.0], FONT, Anchor::Middle, self.x.1);
        svg.upward([18.0, f64::midpoint(TOP, bottom)], FONT, self.y.1);

        let place = |px: f64, py: f64| Some([x.at(px)?, y.at(py)?]);
        for (curve, color) in lines.iter().zip(COLORS.iter().cycle()) {
            let upper = curve.band.iter().filter_map(|&(at, _, upper)| place(at, upper));
            let lower = curve.band.iter().rev().filter_map(|&(at, lower, _)| place(at, lower));
            let outline: Vec<[f64; 2]> = upper.chain(lower).collect();
            if outline.len() > 3 {
                svg.area(&outline, color);
            }
        }
        for (i, (curve, color)) in lines.iter().zip(COLORS.iter().cycle()).enumerate() {
            let points: Vec<Option<[f64; 2]>> = curve.points.iter().map(|&(px, py)| place(px, py)).collect();
            // A gap where a number has no meaning.
            for part in points.split(Option::is_none).filter(|part| !part.is_empty()) {
                svg.path(&part.iter().flatten().copied().collect::<Vec<_>>(), color);
            }
            if lines.len() > 1 {
                let at = SIZE[1] - 8.0 + ENTRY * i as f64;
                svg.path(&[[left, at], [left + 28.0, at]], color);
                svg.text([left + 38.0, at], FONT, Anchor::Start, &curve.label);
            }
        }
        Some(svg)
    }
}
