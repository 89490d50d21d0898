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
    /// Sorts by a column, numbers in descending order unless `ascending`. The sort is stable; rows without a number
    /// come last. Returns false if there is no such column.
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

    /// Returns the key of the column with this key or this title, whatever the case of its letters.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static str> {
        let found = |h: &&Heading| h.key.eq_ignore_ascii_case(name) || h.title.to_lowercase() == name.to_lowercase();
        self.headings.iter().find(found).map(|h| h.key)
    }

    /// Joins rows that differ in the column `key` alone: weights that read the same input have the same statistics. The
    /// joined name has the differing parts in braces, as a shell writes it: `blk.0.attn_{k,q,v}.weight`.
    #[must_use]
    pub fn join_equal_rows(self, key: &str) -> Self {
        let Some(column) = self.headings.iter().position(|h| h.key == key) else { return self };
        let mut joined: Vec<(Vec<Cell>, Vec<String>)> = Vec::new();
        for mut row in self.rows {
            let name = match row.get_mut(column) {
                Some(Cell::Text(name)) => std::mem::take(name),
                _ => String::new(),
            };
            match joined.iter_mut().rev().find(|(other, _)| same(other, &row)) {
                Some((_, names)) => names.push(name),
                None => joined.push((row, vec![name])),
            }
        }
        let rows = joined.into_iter().map(|(mut row, names)| {
            row[column] = Cell::Text(in_braces(&names));
            row
        });
        Self { headings: self.headings, rows: rows.collect() }
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

/// Returns true if all cells are equal; an undefined number is equal to itself.
fn same(a: &[Cell], b: &[Cell]) -> bool {
    let equal = |(a, b): (&Cell, &Cell)| match (a, b) {
        (Cell::Number(a), Cell::Number(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(equal)
}

/// Writes names as one, with what differs in braces.
fn in_braces(names: &[String]) -> String {
    let [first, others @ ..] = names else { return String::new() };
    if others.is_empty() {
        return first.clone();
    }
    let equal = |a: &mut dyn Iterator<Item = char>, b: &mut dyn Iterator<Item = char>| {
        a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let prefix = others.iter().map(|o| equal(&mut first.chars(), &mut o.chars())).min().unwrap_or(0);
    let rest = |name: &str| name.len() - prefix;
    let suffix = others.iter().map(|o| equal(&mut first.chars().rev(), &mut o.chars().rev()).min(rest(o)));
    let suffix = suffix.min().unwrap_or(0).min(rest(first));
    let parts: Vec<&str> = names.iter().map(|name| &name[prefix..name.len() - suffix]).collect();
    format!("{}{{{}}}{}", &first[..prefix], parts.join(","), &first[first.len() - suffix..])
}

/// Converts an f32 to the f64 nearest to its shortest decimal: `0.8_f32` becomes 0.8.
pub(super) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_in_their_name_alone_are_joined() {
        let row = |name: &str, x: f64| vec![Cell::Text(name.to_owned()), Cell::Number(x)];
        let sheet = Sheet {
            headings: vec![Heading::new("tensor", "Tensor", 0), Heading::new("x", "Top 1%", 0)],
            rows: vec![
                row("blk.0.attn_k.weight", 1.0),
                row("blk.0.attn_output.weight", 2.0),
                row("blk.0.attn_q.weight", 1.0),
                row("blk.0.ffn_gate_exps.weight", f64::NAN),
                row("blk.0.ffn_up_exps.weight", f64::NAN),
            ],
        };
        assert_eq!(sheet.key("TOP 1%"), Some("x"));
        assert_eq!(sheet.key("top 2%"), None);
        let names: Vec<Cell> = sheet.join_equal_rows("tensor").rows.into_iter().map(|mut row| row.remove(0)).collect();
        let expected = ["blk.0.attn_{k,q}.weight", "blk.0.attn_output.weight", "blk.0.ffn_{gate,up}_exps.weight"];
        assert_eq!(names, expected.map(|name| Cell::Text(name.to_owned())));
        assert_eq!(in_braces(&["a.aa".to_owned(), "a.a".to_owned()]), "a.a{a,}");
    }

    #[test]
    fn undefined_numbers_sort_last() {
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
