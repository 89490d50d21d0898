use num_bigint::BigInt;

use super::*;
use crate::imatrix::Entry;

/// Reproducible random numbers: `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number with a random mantissa, a random sign and an exponent from `exponents`.
    fn float(&mut self, exponents: Range<i32>) -> f32 {
        let bits = self.next();
        let exponent = exponents.start + ((bits >> 32) as i32).rem_euclid(exponents.end - exponents.start);
        f32::from_bits((bits as u32 & 0x807f_ffff) | ((exponent + 127) as u32) << 23)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// Returns a number in units of 2^-300, exactly.
fn big(x: f32) -> BigInt {
    let bits = x.to_bits();
    let (exponent, fraction) = (bits >> 23 & 0xff, bits & 0x7f_ffff);
    assert!(exponent != 255);
    let size = if exponent == 0 { fraction } else { fraction | 1 << 23 };
    let n = BigInt::from(size) << (exponent.max(1) + 150);
    if x.is_sign_negative() { -n } else { n }
}

/// Returns true if `rounded` is the f32 nearest to `exact`, and in a tie the even one.
fn is_nearest(rounded: f32, exact: &BigInt) -> bool {
    let distance = |x: f32| {
        let d = big(x) - exact;
        if d < BigInt::ZERO { -d } else { d }
    };
    let own = distance(rounded);
    [rounded.next_up(), rounded.next_down()].into_iter().filter(|x| x.is_finite()).all(|other| {
        let other = distance(other);
        own < other || own == other && rounded.to_bits().is_multiple_of(2)
    })
}

fn collect(channels: usize, rows: &[Vec<f32>]) -> ExactEntry {
    let mut entry = ExactEntry::zeros(channels, 1);
    let data = rows.concat();
    let starts: Vec<usize> = (0..rows.len()).map(|row| row * channels).collect();
    entry.add_rows(0..channels, &data, &starts).unwrap();
    entry.counts[0] = rows.len() as i64;
    entry
}

fn rows(rng: &mut Rng, channels: usize, n: usize, exponents: Range<i32>) -> Vec<Vec<f32>> {
    (0..n).map(|_| (0..channels).map(|_| rng.float(exponents.clone())).collect()).collect()
}

#[test]
fn sums_are_exact_and_rounded_once() {
    let mut rng = Rng(1);
    // Within a factor of two, over the whole range, and in the usual range.
    for (exponents, n) in [(0..1, 300), (-36..30, 1000), (-12..6, 257), (-36..-30, 63), (25..30, 64)] {
        let rows = rows(&mut rng, 67, n, exponents.clone());
        let entry = collect(67, &rows).round();
        for channel in 0..67 {
            let terms = || rows.iter().map(|row| big(row[channel]));
            // A square is in units of 2^-600: the first 300 bits are zeros where the lowest term is 2^-36.
            let squares: BigInt = terms().map(|x| &x * &x).sum::<BigInt>() >> 300;
            assert!(is_nearest(entry.sum2[channel], &squares), "{exponents:?} {channel}");
            let sum: BigInt = terms().sum();
            assert!(is_nearest(entry.sum.as_ref().unwrap()[channel], &sum), "{exponents:?} {channel}");
        }
    }
}

#[test]
fn any_order_and_any_split_give_the_same_words() {
    let mut rng = Rng(2);
    for exponents in [-60..20, -8..2, -149..-100, -75..-50] {
        let mut all = rows(&mut rng, 70, 400, exponents.start.max(-126)..exponents.end);
        let whole = collect(70, &all);
        for _ in 0..8 {
            rng.shuffle(&mut all);
            let mut parts = vec![];
            let mut rest = &all[..];
            while !rest.is_empty() {
                let (part, others) = rest.split_at(1 + rng.next() as usize % rest.len());
                parts.push(collect(70, part));
                rest = others;
            }
            rng.shuffle(&mut parts);
            let mut merged = ExactEntry::zeros(70, 1);
            for part in &parts {
                merged.merge(part).unwrap();
            }
            assert_eq!(merged, whole, "{exponents:?}");
            assert_eq!(merged.round(), whole.round());
        }
    }
}

#[test]
fn ties_between_grids_do_not_depend_on_the_order() {
    // Halves and units of each grid, of x² and of x, with their neighbours: these are ties in an accumulator.
    let mut all: Vec<Vec<f32>> = Vec::new();
    for exponent in [-60, -59, -38, -37, -30, -29, -15, -14, -1, 0, 7, 8, 15, 22] {
        let x = 2f32.powi(exponent);
        for x in [x, -x, x.next_up(), -x.next_down(), 1.5 * x] {
            all.push(vec![x]);
        }
    }
    let whole = collect(1, &all);
    let mut rng = Rng(3);
    for _ in 0..2000 {
        rng.shuffle(&mut all);
        assert_eq!(collect(1, &all), whole);
    }
}

#[test]
fn cancellation_keeps_small_terms() {
    // In f32 the small term would be lost: 1e9 - 1e9 + 1e-10.
    let small = 1e-10_f32;
    let mut all: Vec<Vec<f32>> =
        (0..500).flat_map(|i| [vec![1e9 - i as f32 * 64.0], vec![i as f32 * 64.0 - 1e9]]).collect();
    all.push(vec![small]);
    let mut rng = Rng(4);
    for _ in 0..20 {
        rng.shuffle(&mut all);
        assert_eq!(collect(1, &all).round().sum.unwrap(), [small]);
    }
}

#[test]
fn rounding_is_to_even_and_depends_on_the_last_bit() {
    let one = |terms: &[f32]| collect(1, &terms.iter().map(|&x| vec![x]).collect::<Vec<_>>()).round();
    let half = 2f32.powi(-24);
    for (terms, want) in [
        (&[1.0, half][..], 1.0),
        (&[1.0_f32.next_up(), half], 1.0 + 4.0 * half),
        (&[1.0, half, 2f32.powi(-36)], 1.0 + 2.0 * half),
        (&[-1.0, -half, -2f32.powi(-36)], -1.0 - 2.0 * half),
        (&[1.0, half, -2f32.powi(-36)], 1.0),
    ] {
        assert_eq!(one(terms).sum, Some(vec![want]), "{terms:?}");
    }
    // The same for squares that use the third word: 2^20 squared, half a unit in its last place, and the lowest bit.
    let (large, half) = (2f32.powi(20), 2f32.powi(8));
    assert_eq!(one(&[large, half]).sum2, [2f32.powi(40)]);
    assert_eq!(one(&[large, half, 2f32.powi(-36)]).sum2, [2f32.powi(40).next_up()]);
}

#[test]
fn values_not_finite_or_too_large_are_refused_with_their_channel() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e10] {
        for (row, channel) in [(0, 0), (63, 64), (64, 99), (129, 3)] {
            let mut data = vec![1.0_f32; 130 * 100];
            data[row * 100 + channel] = bad;
            let starts: Vec<usize> = (0..130).map(|row| row * 100).collect();
            let mut entry = ExactEntry::zeros(100, 1);
            assert_eq!(entry.add_rows(0..100, &data, &starts), Err(OutOfRange { channel }), "{bad}");
        }
    }
    let most = vec![vec![2f32.powi(30)]; 1000];
    assert_eq!(collect(1, &most).round().sum2, [1000.0 * 2f32.powi(60)]);
    let mut full = collect(1, &most);
    let error = (0..40).find_map(|_| {
        let same = full.clone();
        full.merge(&same).err()
    });
    assert_eq!(error, Some(Error::Range { index: 0 }));
}

#[test]
fn rounded_sums_round_trip_and_lengths_must_match() {
    let mut rng = Rng(5);
    let sum: Vec<f32> = (0..200).map(|_| rng.float(-30..60)).chain([0.0]).collect();
    let sum2 = (0..200).map(|_| rng.float(-90..70).abs()).chain([0.0]).collect();
    let entry = Entry { sum2, sum: Some(sum), counts: vec![7] };
    let exact = ExactEntry::from_rounded(&entry).unwrap();
    assert_eq!(exact.round(), entry);
    assert!(exact.check().is_ok());
    let tiny = Entry { sum2: vec![1e-36, 1e-45], sum: Some(vec![1e-18, -1e-30]), counts: vec![1] };
    let rounded = ExactEntry::from_rounded(&tiny).unwrap();
    assert_eq!((&rounded.sum2[..], rounded.sum.as_deref()), (&[1, 0, 0, 0, 0, 0][..], Some(&[1, 0, 0, 0][..])));
    for bad in [f32::NAN, -1.0, f32::INFINITY, 1e30] {
        let entry = Entry { sum2: vec![0.0, bad], sum: None, counts: vec![1] };
        assert_eq!(ExactEntry::from_rounded(&entry), Err(Error::Range { index: 1 }));
    }
    let without = ExactEntry { sum: None, ..exact.clone() };
    assert_eq!(exact.clone().merge(&without), Err(Error::Activations));
    let other = ExactEntry::zeros(3, 1);
    assert_eq!(exact.clone().merge(&other), Err(Error::Lengths { part: "values", found: 3, expected: 201 }));
    let counted = ExactEntry { counts: vec![i64::MAX], ..exact.clone() };
    assert_eq!(exact.clone().merge(&counted), Err(Error::CountOverflow));
}
