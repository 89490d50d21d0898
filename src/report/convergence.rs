//! Columns of a convergence file, for sheets of weights and experts.

use std::collections::BTreeMap;

use super::sheet::{Cell, Heading, Sheet};
use crate::convergence::{Agreement, ConvergenceFile, WeightAgreement};

/// The columns.
const HEADINGS: [Heading; 2] =
    [Heading::new("halves_cosine", "Halves", 4), Heading::new("relative_error", "Rel error", 4)];

/// Appends, to a sheet with a row per weight or per expert, how well the halves of the text agree. A row without an
/// agreement, and every row without a file, gets empty cells.
pub fn append(sheet: &mut Sheet, file: Option<&ConvergenceFile>) {
    let weights = file.into_iter().flat_map(|file| &file.weights);
    let weights: BTreeMap<&str, &WeightAgreement> = weights.map(|weight| (weight.weight.as_str(), weight)).collect();
    let column = |key: &str| sheet.headings.iter().position(|heading| heading.key == key);
    let (Some(weight), expert) = (column("tensor"), column("expert")) else { return };
    sheet.headings.extend(HEADINGS);
    for row in &mut sheet.rows {
        let found = match row.get(weight) {
            Some(Cell::Text(name)) => weights.get(name.as_str()).copied(),
            _ => None,
        };
        let agreement = found.and_then(|found| match expert.and_then(|expert| row.get(expert)) {
            Some(&Cell::Count(expert)) => *found.experts.get(usize::try_from(expert).ok()?)?,
            _ => found.agreement,
        });
        row.extend(cells(agreement));
    }
}

fn cells(agreement: Option<Agreement>) -> [Cell; 2] {
    match agreement {
        Some(Agreement { cosine, relative_error, .. }) => [Cell::Number(cosine), Cell::Number(relative_error)],
        None => [Cell::Missing, Cell::Missing],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convergence::{FORMAT, VERSION};

    #[test]
    fn weights_and_experts_get_their_agreement() {
        let agreement = |cosine| Some(Agreement { rows: [1, 2], cosine, relative_error: 0.5 });
        let weight = WeightAgreement {
            weight: "a".into(),
            in_sum2: 1.0,
            agreement: agreement(0.75),
            experts: vec![agreement(0.25), None],
        };
        let file =
            ConvergenceFile { format: FORMAT.into(), version: VERSION, curve: Vec::new(), weights: vec![weight] };
        let sheet = |keys: &[&'static str], rows: Vec<Vec<Cell>>| Sheet {
            headings: keys.iter().map(|key| Heading::new(key, key, 0)).collect(),
            rows,
        };
        let name = |name: &str| Cell::Text(name.to_owned());
        let mut weights = sheet(&["tensor"], vec![vec![name("a")], vec![name("b")]]);
        append(&mut weights, Some(&file));
        assert_eq!(weights.headings.len(), 3);
        assert_eq!(weights.rows[0][1..], [Cell::Number(0.75), Cell::Number(0.5)]);
        assert_eq!(weights.rows[1][1..], [Cell::Missing, Cell::Missing]);
        let row = |expert| vec![name("a"), Cell::Count(expert)];
        let mut experts = sheet(&["tensor", "expert"], vec![row(0), row(1), row(2)]);
        append(&mut experts, Some(&file));
        assert_eq!(experts.rows[0][2], Cell::Number(0.25));
        assert!(experts.rows[1..].iter().all(|row| row[2..] == [Cell::Missing, Cell::Missing]));
        append(&mut experts, None);
        assert_eq!(experts.rows[0][4], Cell::Missing);
    }
}
