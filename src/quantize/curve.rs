//! Files of `recipe --curve`: the least expected cost at each size, as CSV.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Recipe;

/// The first line of a file.
pub const HEADING: &str = "bytes,bits_per_weight,cost";

/// A curve of least cost: sizes ascending, costs descending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Its points. Between two of them, mixes lie on the line that joins them, or just above it.
    pub points: Vec<CurvePoint>,
}

/// The least cost at a size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Size of the whole file.
    pub bytes: u64,
    /// Bits per weight, as `llama-quantize` prints them.
    pub bits: f64,
    /// Expected cost.
    pub cost: f64,
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurveError {
    /// An error of the operating system.
    #[error("cannot read '{}': {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Not a file of this kind.
    #[error("'{}' is not a file of recipe --curve: line {line} {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The rule that it breaks.
        reason: String,
    },
}

impl Curve {
    /// Returns the curve of a recipe's model.
    #[must_use]
    pub fn of(recipe: &Recipe) -> Self {
        let beside = recipe.file_bytes - recipe.tensor_bytes;
        let bits = |bytes: u64| bytes.saturating_sub(beside) as f64 * 8.0 / recipe.elements.max(1) as f64;
        let point = |&(bytes, cost): &(u64, f64)| CurvePoint { bytes, bits: bits(bytes), cost };
        Self { points: recipe.curve.iter().map(point).collect() }
    }

    /// Returns the file's text.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text = HEADING.to_owned() + "\n";
        for CurvePoint { bytes, bits, cost } in &self.points {
            let _ = writeln!(text, "{bytes},{bits},{cost}");
        }
        text
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`CurveError`].
    pub fn load(path: &Path) -> Result<Self, CurveError> {
        let text = std::fs::read_to_string(path).map_err(|source| CurveError::Io { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, reason)| CurveError::Format { path: path.to_owned(), line, reason })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        if first != HEADING {
            let shown: String = first.chars().take(40).collect();
            return Err((1, format!("is '{}', expected '{HEADING}'", shown.escape_debug())));
        }
        let mut points: Vec<CurvePoint> = Vec::new();
        for (line, text) in (2..).zip(lines) {
            let point = point(text).ok_or((line, "has no size, bits and cost, in numbers of at least 0".to_owned()))?;
            if points.last().is_some_and(|last| point.bytes < last.bytes || point.cost > last.cost) {
                return Err((line, "has a smaller size or a larger cost than the line before it".to_owned()));
            }
            points.push(point);
        }
        if points.is_empty() {
            return Err((2, "is missing: there is no size".to_owned()));
        }
        Ok(Self { points })
    }
}

fn point(text: &str) -> Option<CurvePoint> {
    let mut cells = text.split(',');
    let mut number = || cells.next()?.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    let (bytes, bits, cost) = (number()?, number()?, number()?);
    (cells.next().is_none() && bytes < 9e18).then_some(CurvePoint { bytes: bytes as u64, bits, cost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_read_as_they_were_written_and_others_refused() {
        let point = |bytes, bits, cost| CurvePoint { bytes, bits, cost };
        let curve = Curve { points: vec![point(1000, 2.5, 0.1), point(1200, 3.0, 0.1 / 3.0), point(2000, 5.0, 0.0)] };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.csv");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Curve::load(&path)
        };
        assert_eq!(load(&curve.to_csv()).unwrap(), curve);
        let text = curve.to_csv();
        for (text, says) in [
            (String::new(), "line 1 is ''"),
            ("my notes\n".to_owned(), "line 1 is 'my notes', expected 'bytes,bits_per_weight,cost'"),
            (HEADING.to_owned() + "\n", "line 2 is missing"),
            (text.replace("2.5", "x"), "line 2 has no size"),
            (text.replace("2.5", "inf"), "line 2 has no size"),
            (text.replace("2.5", "-2.5"), "line 2 has no size"),
            (text.replace("2.5,", ""), "line 2 has no size"),
            (text.replace("2.5,", "2.5,7,"), "line 2 has no size"),
            (text.replace("1200", "900"), "line 3 has a smaller size"),
            (text.replace("5,0\n", "5,1\n"), "line 4 has a smaller size or a larger cost"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains("c.csv") && error.contains(says), "{error}, expected {says}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Curve::load(&path), Err(CurveError::Io { .. })));
    }
}
