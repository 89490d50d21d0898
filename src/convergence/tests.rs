use std::collections::BTreeMap;

use super::*;
use crate::imatrix::Fill;

fn entry(sum2: &[f32], counts: &[i64]) -> Entry {
    Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() }
}

fn half(sum2: &[f64], counts: &[i64]) -> Half {
    Half { sum2: sum2.to_vec(), counts: counts.to_vec() }
}

fn measure(all: &Entry, even: &Half) -> WeightAgreement {
    Convergence::measure([("w", Cow::Borrowed(all), even)]).weights.remove(0)
}

/// Even: 2 rows, mean squares (1, 2). Odd: 4 rows, mean squares (2, 1). All: 6 rows, mean squares (5/3, 4/3).
#[test]
fn both_measures_follow_their_formulas() {
    let found = measure(&entry(&[10.0, 8.0], &[6]), &half(&[2.0, 4.0], &[2])).agreement.unwrap();
    assert_eq!(found.rows, [2, 4]);
    assert_eq!(found.cosine.to_bits(), 0.8_f64.to_bits()); // (1 * 2 + 2 * 1) / (sqrt 5 * sqrt 5)
    let expected = (8.0_f64.sqrt() / 6.0) * 2.0_f64.sqrt() / (41.0_f64.sqrt() / 3.0);
    assert!((found.relative_error - expected).abs() < 1e-9, "{found:?}, expected {expected}");
}

#[test]
fn equal_halves_agree_and_halves_without_a_direction_are_not_compared() {
    let same = measure(&entry(&[4.0, 8.0], &[4]), &half(&[2.0, 4.0], &[2])).agreement.unwrap();
    assert_eq!((same.cosine, same.relative_error), (1.0, 0.0));
    for (all, even) in [
        (entry(&[4.0, 8.0], &[4]), Half::default()),
        (entry(&[4.0, 8.0], &[4]), half(&[4.0, 8.0], &[4])),
        (entry(&[4.0, 8.0], &[4]), half(&[0.0, 0.0], &[2])),
        (entry(&[0.0, 0.0], &[4]), half(&[0.0, 0.0], &[2])),
        (entry(&[], &[]), Half::default()),
    ] {
        assert_eq!(measure(&all, &even).agreement, None, "{all:?}, {even:?}");
    }
}

/// Expert 0 agrees, expert 1 does not, expert 2 has rows in one half only.
#[test]
fn experts_are_compared_each_and_those_of_one_half_are_left_out() {
    let all = entry(&[2.0, 2.0, 2.0, 2.0, 9.0, 1.0], &[2, 2, 5]);
    let even = half(&[1.0, 1.0, 2.0, 0.0, 0.0, 0.0], &[1, 1, 0]);
    let found = measure(&all, &even);
    let cosines: Vec<_> = found.experts.iter().map(|expert| expert.map(|expert| expert.cosine)).collect();
    assert_eq!(cosines, [Some(1.0), Some(0.0), None]);
    let together = found.agreement.unwrap();
    assert_eq!((together.rows, together.cosine), ([2, 2], rounded(2.0 / 6.0)));
}

/// Random batches of 64 rows around one direction: the estimate is the error of the matrix, and the cosine of the matrix to
/// the truth is that of Spearman and Brown.
#[test]
fn the_estimates_are_those_of_a_known_truth() {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0
    };
    let columns = 400;
    let truth: Vec<f64> = (0..columns).map(|column| 1.0 + f64::from(column % 17)).collect();
    let mut halves = [vec![0.0; columns as usize], vec![0.0; columns as usize]];
    let rows = 200;
    for row in 0..2 * rows {
        for (sum, variance) in halves[row % 2].iter_mut().zip(&truth) {
            // Exponential: mean and standard deviation are both `variance`.
            *sum += -uniform().ln() * variance;
        }
    }
    let rows = rows as i64;
    let all: Vec<f32> = halves[0].iter().zip(&halves[1]).map(|(a, b)| (a + b) as f32).collect();
    let found = measure(&entry(&all, &[2 * rows]), &half(&halves[0], &[rows])).agreement.unwrap();
    let mean: Vec<f64> = all.iter().map(|&sum| f64::from(sum) / (2 * rows) as f64).collect();
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let product: f64 = mean.iter().zip(&truth).map(|(a, b)| a * b).sum();
    let distance: Vec<f64> = mean.iter().zip(&truth).map(|(a, b)| a - b).collect();
    let (error, cosine) = (norm(&distance) / norm(&truth), product / norm(&mean) / norm(&truth));
    assert!((found.relative_error / error - 1.0).abs() < 0.15, "{found:?}, error {error}");
    let predicted = (2.0 * found.cosine / (1.0 + found.cosine)).sqrt();
    assert!(((1.0 - predicted) / (1.0 - cosine) - 1.0).abs() < 0.3, "predicted {predicted}, found {cosine}");
}

fn convergence() -> Convergence {
    let [a, b] = [entry(&[10.0, 8.0], &[6]), entry(&[4.0, 8.0], &[4])];
    let evens = [half(&[2.0, 4.0], &[2]), half(&[2.0, 4.0], &[2])];
    Convergence::measure([("a", Cow::Borrowed(&a), &evens[0]), ("b", Cow::Borrowed(&b), &evens[1])])
}

#[test]
fn a_point_has_the_lowest_cosine_and_its_weight() {
    let point = convergence().point(3).unwrap();
    assert_eq!((point.chunks, point.tokens, point.weight.as_str()), (3, 6, "a"));
    assert_eq!((point.cosine, point.median_cosine), (0.8, 0.9));
    assert_eq!(Some(point.relative_error), convergence().weights[0].agreement.map(|found| found.relative_error));
}

#[test]
fn a_file_is_read_as_it_was_written_and_knows_its_matrix() {
    let earlier = [convergence().point(1).unwrap(), convergence().point(3).unwrap()];
    let file = ConvergenceFile::new(convergence(), 3, &earlier).unwrap();
    assert_eq!(file.curve.iter().map(|point| point.chunks).collect::<Vec<_>>(), [1, 3]);
    let mut bytes = Vec::new();
    file.write(&mut bytes).unwrap();
    let read = ConvergenceFile::parse(&bytes).unwrap();
    assert_eq!(read, file);
    let mut again = Vec::new();
    read.write(&mut again).unwrap();
    assert_eq!(again, bytes);

    let mut entries: BTreeMap<String, Entry> =
        [("a".to_owned(), entry(&[10.0, 8.0], &[6])), ("b".to_owned(), entry(&[4.0, 8.0], &[4]))].into();
    assert!(file.is_of(&entries, &BTreeMap::new()));
    entries.insert("b".to_owned(), entry(&[4.0, 8.001], &[4]));
    assert!(!file.is_of(&entries, &BTreeMap::new()));
    assert!(file.is_of(&entries, &[("b".to_owned(), [(0, Fill::Layer)].into())].into()));
    entries.remove("b");
    assert!(!file.is_of(&entries, &BTreeMap::new()));
}

#[test]
fn a_file_that_breaks_a_rule_is_refused_with_the_rule() {
    for (bytes, says) in [
        (&br#"{"format": "llama-imatrix lens", "version": 1}"#[..], "'format' is \"llama-imatrix lens\", expected"),
        (br#"{"format": "llama-imatrix convergence", "version": 2}"#, "found version 2, expected 1"),
        (
            br#"{"format": "llama-imatrix convergence", "version": 1, "curve": [], "weights": []}"#,
            "'curve' has no point",
        ),
        (b"GGUF", "not a convergence file"),
    ] {
        let error = ConvergenceFile::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn numbers_of_any_size_are_read_as_written() {
    for x in [0.123_456_789, 1.0, 123_456.789_012_345, 9_007_199.254_740_993, 1e300, -1e308] {
        let once = rounded(x);
        assert_eq!(rounded(once).to_bits(), once.to_bits(), "{x}");
        assert!(once.is_finite(), "{x}");
    }
}
