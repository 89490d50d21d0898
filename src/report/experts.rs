//! Sheets with one row per expert. They show an expert without data beside a busy one.

use super::difference::{MEASURES, Metric, by_difference, measures};
use super::sheet::{Cell, Heading, Sheet};
use crate::imatrix::{Entry, Fill, Imatrix};
use crate::stats::{Divergence, TensorDivergence, TensorSummary};

/// Returns the experts of the weights of a matrix that have several.
#[must_use]
pub fn of_matrix<'a>(imatrix: &Imatrix, tensors: impl IntoIterator<Item = &'a TensorSummary>) -> Sheet {
    let headings = vec![
        Heading::new("layer", "Layer", 0),
        Heading::new("tensor", "Tensor", 0),
        Heading::new("expert", "Expert", 0),
        Heading::new("rows", "Rows", 0),
        Heading::new("share", "Share", 4),
        Heading::new("sum_sq", "∑ E[A²]", 4),
        Heading::new("note", "Note", 0),
    ];
    let mut rows = Vec::new();
    for tensor in tensors {
        let name = &tensor.stats.tensor;
        let Some(entry) = imatrix.entries.get(name).filter(|entry| entry.counts.len() > 1) else { continue };
        let filled = imatrix.filled.get(name);
        let total: f64 = entry.counts.iter().map(|&count| count as f64).sum();
        for (expert, &count) in entry.counts.iter().enumerate() {
            let filled = u32::try_from(expert).ok().and_then(|expert| filled?.get(&expert));
            rows.push(vec![
                Cell::Text(tensor.layer.clone()),
                Cell::Text(name.clone()),
                Cell::count(Some(expert)),
                Cell::Count(count),
                Cell::Number(count as f64 / total),
                Cell::Number(energy(entry, expert)),
                Cell::Text(note(count, filled).to_owned()),
            ]);
        }
    }
    Sheet { headings, rows }
}

/// Returns the sum of the mean squares of an expert's channels; NaN without rows.
fn energy(entry: &Entry, expert: usize) -> f64 {
    let row = entry.row_len().unwrap_or(0);
    let (sums, count) = (entry.sum2.get(expert * row..(expert + 1) * row), entry.counts.get(expert));
    match (sums, count) {
        (Some(sums), Some(&count)) if count > 0 => sums.iter().map(|&x| f64::from(x)).sum::<f64>() / count as f64,
        _ => f64::NAN,
    }
}

fn note(count: i64, filled: Option<&Fill>) -> &'static str {
    match (count, filled) {
        (_, Some(Fill::Layer)) => "filled",
        (_, Some(Fill::Shown { .. })) => "shown",
        (..=0, None) => "unseen",
        _ => "",
    }
}

/// Returns the experts of the weights that both matrices have, largest difference first.
#[must_use]
pub fn of_two<'a>(
    first: &Imatrix,
    second: &Imatrix,
    tensors: impl IntoIterator<Item = &'a TensorDivergence>,
    by: Metric,
) -> Sheet {
    let mut headings = vec![
        Heading::new("layer", "Layer", 0),
        Heading::new("tensor", "Tensor", 0),
        Heading::new("expert", "Expert", 0),
    ];
    headings.extend(MEASURES);
    headings.extend([
        Heading::new("rows_a", "Rows A", 0),
        Heading::new("rows_b", "Rows B", 0),
        Heading::new("note", "Note", 0),
    ]);
    let mut rows = Vec::new();
    for tensor in tensors {
        let (a, b) = (first.entries.get(&tensor.tensor), second.entries.get(&tensor.tensor));
        let Some((a, b)) = a.zip(b).filter(|(a, _)| a.counts.len() > 1) else { continue };
        for expert in 0..a.counts.len() {
            let Some(divergence) = Divergence::of_expert(a, b, expert) else { continue };
            let counts = [a.counts[expert], b.counts.get(expert).copied().unwrap_or(0)];
            let place =
                [Cell::Text(tensor.layer.clone()), Cell::Text(tensor.tensor.clone()), Cell::count(Some(expert))];
            let end = [Cell::Count(counts[0]), Cell::Count(counts[1]), Cell::Text(unseen_in(counts).to_owned())];
            let row: Vec<Cell> = place.into_iter().chain(measures(&divergence)).chain(end).collect();
            rows.push((by.of(&divergence), row));
        }
    }
    by_difference(&mut rows, |(difference, _)| *difference);
    Sheet { headings, rows: rows.into_iter().map(|(_, row)| row).collect() }
}

fn unseen_in(counts: [i64; 2]) -> &'static str {
    match counts {
        [..=0, ..=0] => "unseen in both",
        [..=0, _] => "unseen in A",
        [_, ..=0] => "unseen in B",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{MatrixDivergence, Summary};

    fn matrix(counts: &[i64], sum2: &[f32]) -> Imatrix {
        let entry = Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() };
        Imatrix { entries: [("blk.0.ffn_up_exps.weight".to_owned(), entry)].into(), ..Imatrix::default() }
    }

    #[test]
    fn unseen_and_filled_experts_are_named() {
        let mut m = matrix(&[3, 0, 1], &[3.0, 6.0, 0.0, 0.0, 1.0, 1.0]);
        let notes = |m: &Imatrix| -> Vec<Cell> {
            of_matrix(m, &Summary::new(m).tensors).rows.into_iter().map(|mut row| row.remove(6)).collect()
        };
        assert_eq!(notes(&m), ["", "unseen", ""].map(|note| Cell::Text(note.into())));
        let energies: Vec<Cell> =
            of_matrix(&m, &Summary::new(&m).tensors).rows.iter().map(|row| row[5].clone()).collect();
        assert_eq!((&energies[0], &energies[2]), (&Cell::Number(3.0), &Cell::Number(2.0)));
        m.fill_experts(1);
        assert_eq!(notes(&m), ["", "filled", ""].map(|note| Cell::Text(note.into())));
    }

    #[test]
    fn one_bad_expert_is_seen_beside_a_busy_one() {
        let a = matrix(&[1000, 1, 5], &[1000.0, 1000.0, 1.0, 0.0, 5.0, 5.0]);
        let b = matrix(&[1000, 1, 0], &[1000.0, 1000.0, 0.0, 1.0, 0.0, 0.0]);
        let all = MatrixDivergence::new(&a, &b);
        let sheet = of_two(&a, &b, &all.tensors, Metric::Jsd);
        let experts: Vec<&Cell> = sheet.rows.iter().map(|row| &row[2]).collect();
        // The one without data in B comes first, as no agreement; then the disjoint one.
        assert_eq!(experts, [&Cell::Count(2), &Cell::Count(1), &Cell::Count(0)]);
        assert_eq!(sheet.rows[0][10], Cell::Text("unseen in B".into()));
        assert_eq!(sheet.rows[1][6], Cell::Number(1.0));
    }
}
