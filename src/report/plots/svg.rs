//! A picture as SVG, and its pixels.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

const FONT: &[u8] = include_bytes!("../../../assets/report/font/DejaVuSans-subset.ttf");
/// Average width of a character, as a multiple of the font size.
const CHARACTER: f64 = 0.6;

pub(super) const TEXT: &str = "#1b2230";
pub(super) const LINE: &str = "#e1e5ec";
pub(super) const AXIS: &str = "#969eaa";

/// Shapes drawn so far. Coordinates are pixels from the upper left corner.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text lies relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub(super) fn rectangle(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], fill: &str) {
        let _ =
            write!(self.body, r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" fill="{fill}"/>"#);
    }

    /// A thin line, on whole pixels so that it is sharp.
    pub(super) fn rule(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], stroke: &str) {
        let sharp = |at: f64| at.floor() + 0.5;
        let (x1, y1, x2, y2) = (sharp(x1), sharp(y1), sharp(x2), sharp(y2));
        let _ = write!(self.body, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}"/>"#);
    }

    /// Lines from point to point; a dot if there is one point.
    pub(super) fn path(&mut self, points: &[[f64; 2]], stroke: &str) {
        if let [[x, y]] = points {
            let _ = write!(self.body, r#"<circle cx="{x:.2}" cy="{y:.2}" r="4" fill="{stroke}"/>"#);
            return;
        }
        let points = list(points);
        let _ = write!(
            self.body,
            r#"<polyline points="{points}" fill="none" stroke="{stroke}" stroke-width="3" stroke-linejoin="round"/>"#
        );
    }

    /// A transparent area.
    pub(super) fn area(&mut self, points: &[[f64; 2]], fill: &str) {
        let points = list(points);
        let _ = write!(self.body, r#"<polygon points="{points}" fill="{fill}" fill-opacity="0.15"/>"#);
    }

    /// A text whose height is centred on its point.
    pub(super) fn text(&mut self, [x, y]: [f64; 2], size: f64, anchor: Anchor, text: &str) {
        self.write(&format!(r#"x="{x:.1}" y="{:.1}""#, y + 0.36 * size), size, anchor, text);
    }

    /// The same, from bottom to top.
    pub(super) fn upward(&mut self, [x, y]: [f64; 2], size: f64, text: &str) {
        let place = format!(r#"transform="translate({:.1} {y:.1}) rotate(-90)""#, x + 0.36 * size);
        self.write(&place, size, Anchor::Middle, text);
    }

    fn write(&mut self, place: &str, size: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(self.body, r#"<text {place} font-size="{size}" text-anchor="{anchor}" fill="{TEXT}">"#);
        for c in text.chars() {
            match c {
                '<' => self.body.push_str("&lt;"),
                '>' => self.body.push_str("&gt;"),
                '&' => self.body.push_str("&amp;"),
                // XML has no other control characters.
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => self.body.push('\u{fffd}'),
                c => self.body.push(c),
            }
        }
        self.body.push_str("</text>");
    }

    /// The picture as PNG.
    ///
    /// # Errors
    /// The picture is too large to draw.
    pub(super) fn to_png(&self) -> Result<Vec<u8>, String> {
        let (width, height) = (self.width.ceil() as u32, self.height.ceil() as u32);
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="DejaVu Sans"><rect width="100%" height="100%" fill="white"/>{}</svg>"#,
            self.body
        );
        let options = Options { fontdb: fonts(), font_family: "DejaVu Sans".into(), ..Options::default() };
        let tree = Tree::from_str(&svg, &options).map_err(|error| error.to_string())?;
        let mut pixels = Pixmap::new(width, height).ok_or_else(|| format!("{width} x {height} pixels are too many"))?;
        resvg::render(&tree, Transform::identity(), &mut pixels.as_mut());
        pixels.encode_png().map_err(|error| error.to_string())
    }
}

/// About how wide a text is.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * CHARACTER
}

fn list(points: &[[f64; 2]]) -> String {
    let mut list = String::new();
    for [x, y] in points {
        let _ = write!(list, "{x:.2},{y:.2} ");
    }
    list
}

/// The compiled-in font alone: a picture looks the same on every machine.
fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    Arc::clone(FONTS.get_or_init(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(FONT.to_vec());
        Arc::new(fonts)
    }))
}
