//! Tables as data: named columns, and rows of text and numbers.

/// The heading of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// Name for programs, such as `mean_to_rms`.
    pub key: &'static str,
    /// Short name for people.
    pub title: &'static str,
    /// Number of decimals in output for people.
    pub decimals: usize,
}

impl Heading {
    /// Creates a heading.
    #[must_use]
    pub const fn new(key: &'static str, title: &'static str, decimals: usize) -> Self {
        Self { key, title, decimals }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A count.
    Count(i64),
    /// A measure; NaN if undefined.
    Number(f64),
    /// A value that does not apply, such as the number of experts of a dense weight.
    Missing,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Columns.
    pub headings: Vec<Heading>,
    /// Rows, each as long as the headings.
    pub rows: Vec<Vec<Cell>>,
}

impl Cell {
    /// Creates a count, or [`Cell::Missing`].
    #[must_use]
    pub(crate) fn count<T: TryInto<i64>>(n: Option<T>) -> Self {
        n.map_or(Cell::Missing, |n| Cell::Count(n.try_into().unwrap_or(i64::MAX)))
    }

    /// Returns the sort key: text, then numbers, then undefined and missing values.
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
    /// Sorts by a column, numbers in descending order unless `ascending`. The sort is stable; rows without a number come
    /// last. Returns false if there is no such column.
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

    /// Keeps the marked columns.
    #[must_use]
    pub fn with_columns(self, kept: &[bool]) -> Self {
        fn keep<T>(items: Vec<T>, kept: &[bool]) -> Vec<T> {
            items.into_iter().zip(kept).filter_map(|(item, &keep)| keep.then_some(item)).collect()
        }
        Self { headings: keep(self.headings, kept), rows: self.rows.into_iter().map(|row| keep(row, kept)).collect() }
    }

    /// Inserts a first column with the same text in each row.
    pub fn prepend(&mut self, heading: Heading, text: &str) {
        self.headings.insert(0, heading);
        for row in &mut self.rows {
            row.insert(0, Cell::Text(text.to_owned()));
        }
    }
}

/// Converts an f32 to the f64 nearest to its shortest decimal: `0.8_f32` becomes 0.8.
pub(super) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_numbers_are_sorted_last() {
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
