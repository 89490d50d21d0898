//! A table before it is text: named columns, and rows of words and numbers.

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// Its name for programs, such as `mean_to_rms`.
    pub key: &'static str,
    /// Its name for people, short.
    pub title: &'static str,
    /// Digits after the point where people read it.
    pub decimals: usize,
}

impl Heading {
    /// A column.
    #[must_use]
    pub const fn new(key: &'static str, title: &'static str, decimals: usize) -> Self {
        Self { key, title, decimals }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(i64),
    /// A measure; NaN where it has no meaning.
    Number(f64),
    /// There is no such thing here, as there is no expert in a dense weight.
    Missing,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Its columns.
    pub headings: Vec<Heading>,
    /// Its rows, each as long as the headings.
    pub rows: Vec<Vec<Cell>>,
}

impl Cell {
    /// A count that there may not be.
    #[must_use]
    pub fn count<T: TryInto<i64>>(n: Option<T>) -> Self {
        n.map_or(Cell::Missing, |n| Cell::Count(n.try_into().unwrap_or(i64::MAX)))
    }

    /// For sorting: words before numbers, what has no meaning last.
    fn key(&self) -> (u8, f64, &str) {
        match self {
            Cell::Text(text) => (0, 0.0, text),
            Cell::Count(n) => (1, *n as f64, ""),
            Cell::Number(x) if !x.is_nan() => (1, *x, ""),
            Cell::Number(_) | Cell::Missing => (2, 0.0, ""),
        }
    }
}

impl Sheet {
    /// Sorts by a column, numbers from the largest down unless `ascending`; equal rows stay as they are, and those
    /// without a number come last. `false` if there is no such column.
    pub fn sort(&mut self, key: &str, ascending: bool) -> bool {
        let Some(column) = self.headings.iter().position(|h| h.key == key) else { return false };
        self.rows.sort_by(|a, b| {
            let (Some(a), Some(b)) = (a.get(column), b.get(column)) else { return std::cmp::Ordering::Equal };
            let (a, b) = (a.key(), b.key());
            let values = a.1.total_cmp(&b.1);
            let values = if ascending { values } else { values.reverse() };
            a.0.cmp(&b.0).then(values).then_with(|| a.2.cmp(b.2))
        });
        true
    }

    /// The columns that are marked.
    #[must_use]
    pub fn with_columns(self, kept: &[bool]) -> Self {
        fn keep<T>(items: Vec<T>, kept: &[bool]) -> Vec<T> {
            items.into_iter().zip(kept).filter_map(|(item, &keep)| keep.then_some(item)).collect()
        }
        Self { headings: keep(self.headings, kept), rows: self.rows.into_iter().map(|row| keep(row, kept)).collect() }
    }

    /// Adds a column of one text in front.
    pub fn prepend(&mut self, heading: Heading, text: &str) {
        self.headings.insert(0, heading);
        for row in &mut self.rows {
            row.insert(0, Cell::Text(text.to_owned()));
        }
    }
}

/// The double that the single's shortest decimal says: what prints as `0.8` is 0.8.
#[must_use]
pub fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_puts_what_has_no_meaning_last() {
        let mut sheet = Sheet {
            headings: vec![Heading::new("x", "X", 0)],
            rows: [f64::NAN, 1.0, 3.0, 2.0].map(|x| vec![Cell::Number(x)]).to_vec(),
        };
        let order = |s: &Sheet| format!("{:?}", s.rows.iter().map(|r| &r[0]).collect::<Vec<_>>());
        assert!(sheet.sort("x", false));
        assert_eq!(order(&sheet), "[Number(3.0), Number(2.0), Number(1.0), Number(NaN)]");
        assert!(sheet.sort("x", true));
        assert_eq!(order(&sheet), "[Number(1.0), Number(2.0), Number(3.0), Number(NaN)]");
        assert!(!sheet.sort("y", true));
        assert_eq!(shortest(0.8).to_bits(), 0.8_f64.to_bits());
    }
}
