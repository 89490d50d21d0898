//! Draws curves and heat maps.

use std::path::Path;
use std::sync::Once;

use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const FONT: &str = "report";
const SIZE: (u32, u32) = (1200, 640);
const COLORS: [RGBColor; 6] = [
    RGBColor(42, 98, 212),
    RGBColor(210, 96, 26),
    RGBColor(22, 135, 106),
    RGBColor(148, 64, 173),
    RGBColor(160, 123, 0),
    RGBColor(86, 101, 122),
];
const TEXT: RGBColor = RGBColor(27, 34, 48);
const UNSEEN: RGBColor = RGBColor(194, 37, 59);

/// A line and a band around it, as (x, lower, upper).
pub(super) struct Curve {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) band: Vec<(f64, f64, f64)>,
}

/// A plot of lines.
pub(super) struct Curves {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) log_x: bool,
    pub(super) log_y: bool,
    pub(super) lines: Vec<Curve>,
}

/// A heat map. `values` are row by row; NaN is no value.
pub(super) struct Grid<'a> {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) rows: &'a [&'a str],
    pub(super) columns: &'a [&'a str],
    pub(super) values: &'a [f64],
}

fn use_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let bytes = include_bytes!("../../../assets/report/font/DejaVuSans-subset.ttf");
        // An unreadable font causes an error when the first label is drawn.
        let _ = register_font(FONT, FontStyle::Normal, bytes);
    });
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Returns the coordinate of a number on an axis. Logarithms are taken here, so all axes are linear.
fn coordinate(x: f64, log: bool) -> f64 {
    if log { x.log10() } else { x }
}

fn tick(x: f64, log: bool) -> String {
    let x = if log { 10_f64.powf(x) } else { x };
    if x != 0.0 && (x.abs() >= 1e5 || x.abs() < 1e-3) {
        format!("{x:.0e}")
    } else {
        let text = format!("{x:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// Returns the ends of an axis, which differ even if all numbers are equal.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.filter(|x| x.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = if high > low { 0.04 * (high - low) } else { low.abs().max(1.0) * 0.1 };
    (low - margin, high + margin)
}

pub(super) fn curves(path: &Path, picture: &Curves) -> Result<(), String> {
    use_font();
    let point = |(x, y): (f64, f64)| (coordinate(x, picture.log_x), coordinate(y, picture.log_y));
    let lines: Vec<Vec<(f64, f64)>> =
        picture.lines.iter().map(|c| c.points.iter().map(|&p| point(p)).collect()).collect();
    let bands: Vec<Vec<(f64, f64)>> = picture.lines.iter().map(|c| outline(&c.band, point)).collect();
    let every = || lines.iter().chain(&bands).flatten();
    let (left, right) = ends(every().map(|p| p.0));
    let (bottom, top) = ends(every().map(|p| p.1));

    let area = BitMapBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&picture.title, (FONT, 24).into_font().color(&TEXT))
        .margin(20)
        .x_label_area_size(52)
        .y_label_area_size(78)
        .build_cartesian_2d(left..right, bottom..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 229, 236))
        .axis_style(RGBColor(150, 158, 170))
        .label_style((FONT, 16).into_font().color(&TEXT))
        .axis_desc_style((FONT, 16).into_font().color(&TEXT))
        .x_desc(picture.x)
        .x_label_formatter(&|x| tick(*x, picture.log_x))
        .y_label_formatter(&|y| tick(*y, picture.log_y))
        .draw()
        .map_err(failed)?;
    for (band, color) in bands.into_iter().zip(COLORS.iter().cycle()).filter(|(band, _)| band.len() > 3) {
        chart.draw_series([Polygon::new(band, color.mix(0.15))]).map_err(failed)?;
    }
    for ((curve, line), &color) in picture.lines.iter().zip(lines).zip(COLORS.iter().cycle()) {
        // A gap where a number has no meaning.
        let mut label = Some(&curve.label);
        for part in line.split(|p| !p.1.is_finite()).filter(|part| !part.is_empty()) {
            let series = if let [only] = part {
                chart.draw_series([Circle::new(*only, 4, color.filled())]).map_err(failed)?
            } else {
                chart.draw_series(LineSeries::new(part.iter().copied(), color.stroke_width(3))).map_err(failed)?
            };
            if let Some(label) = label.take() {
                series
                    .label(label)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(3)));
            }
        }
    }
    if picture.lines.len() > 1 {
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(225, 229, 236))
            .label_font((FONT, 16).into_font().color(&TEXT))
            .position(SeriesLabelPosition::UpperRight)
            .draw()
            .map_err(failed)?;
    }
    area.present().map_err(failed)
}

/// Along the upper edge of a band, then back along the lower.
fn outline(band: &[(f64, f64, f64)], point: impl Fn((f64, f64)) -> (f64, f64)) -> Vec<(f64, f64)> {
    let upper = band.iter().map(|&(x, _, upper)| (x, upper));
    let lower = band.iter().rev().map(|&(x, lower, _)| (x, lower));
    upper.chain(lower).map(point).filter(|p| p.1.is_finite()).collect()
}

pub(super) fn grid(path: &Path, picture: &Grid) -> Result<(), String> {
    const LEFT: u32 = 190;
    const TOP: u32 = 70;
    use_font();
    let (columns, rows) = (picture.columns.len() as u32, picture.rows.len() as u32);
    if columns == 0 || rows == 0 {
        return Ok(());
    }
    let (cell_width, cell_height) = ((1400 / columns).clamp(3, 60), (900 / rows).clamp(6, 30));
    let (width, height) = (columns * cell_width, rows * cell_height);
    let size = (LEFT + width.max(700) + 30, TOP + height + 110);
    let area = BitMapBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let text = |size: u32| (FONT, size).into_font().color(&TEXT);
    let write = |words: &str, size: u32, x: i32, y: i32, h: HPos, v: VPos| {
        let style = text(size).pos(Pos::new(h, v));
        area.draw(&Text::new(words.to_owned(), (x, y), style)).map_err(failed)
    };
    write(&picture.title, 21, 20, 22, HPos::Left, VPos::Top)?;

    let scale = Scale::new(picture.values);
    let fill = |x: u32, y: u32, w: u32, h: u32, color: RGBColor| {
        let corners = [(x as i32, y as i32), ((x + w) as i32 - 1, (y + h) as i32 - 1)];
        area.draw(&Rectangle::new(corners, color.filled())).map_err(failed)
    };
    let unseen = if picture.x == "expert" { UNSEEN } else { RGBColor(233, 236, 241) };
    for (i, &value) in picture.values.iter().enumerate() {
        let (row, column) = (i as u32 / columns, i as u32 % columns);
        let color = if value.is_finite() { scale.color(value) } else { unseen };
        // A hairline between cells, where they are large enough for one.
        let gap = u32::from(cell_width > 8 && cell_height > 8);
        fill(LEFT + column * cell_width, TOP + row * cell_height, cell_width - gap, cell_height - gap, color)?;
    }
    let label_step = (16 / cell_height).max(1);
    for (row, name) in picture.rows.iter().enumerate().step_by(label_step as usize) {
        let y = TOP + row as u32 * cell_height + cell_height / 2;
        write(name, 15, LEFT as i32 - 8, y as i32, HPos::Right, VPos::Center)?;
    }
    let bottom = (TOP + height) as i32;
    for (column, name) in picture.columns.iter().enumerate().step_by((36 / cell_width).max(1) as usize) {
        let x = LEFT + column as u32 * cell_width + cell_width / 2;
        write(name, 15, x as i32, bottom + 6, HPos::Center, VPos::Top)?;
    }
    write(picture.x, 15, (LEFT + width / 2) as i32, bottom + 28, HPos::Center, VPos::Top)?;

    // The scale, from the least to the most.
    for i in 0..240 {
        fill(LEFT + i, TOP + height + 62, 1, 16, Scale::at(f64::from(i) / 239.0))?;
    }
    write(&tick(scale.low, scale.log), 15, LEFT as i32 - 8, bottom + 70, HPos::Right, VPos::Center)?;
    let kind = if scale.log { " (logarithmic)" } else { "" };
    write(
        &format!("{}{kind}", tick(scale.high, scale.log)),
        15,
        LEFT as i32 + 250,
        bottom + 70,
        HPos::Left,
        VPos::Center,
    )?;
    area.present().map_err(failed)
}

/// A colour scale. It is logarithmic if the numbers span more than two powers of ten.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn new(values: &[f64]) -> Self {
        let finite = || values.iter().copied().filter(|x| x.is_finite());
        let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        if low > high {
            return Self { low: 0.0, high: 1.0, log: false };
        }
        let log = low > 0.0 && high / low > 100.0;
        Self { low: coordinate(low, log), high: coordinate(high, log), log }
    }

    fn color(&self, x: f64) -> RGBColor {
        let width = self.high - self.low;
        Self::at(if width > 0.0 { (coordinate(x, self.log) - self.low) / width } else { 0.5 })
    }

    /// Returns the colour at fraction `t` of the scale.
    fn at(t: f64) -> RGBColor {
        let (from, to) = ([237.0, 243.0, 253.0], [13.0, 59.0, 140.0]);
        let mix = |i: usize| (from[i] + (to[i] - from[i]) * t.clamp(0.0, 1.0)) as u8;
        RGBColor(mix(0), mix(1), mix(2))
    }
}
