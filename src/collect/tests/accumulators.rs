use super::super::Error;
use super::*;

/// Row `r` of 16 is `[r, 1, -2]`: Σ = 120, 16, -32; Σ² = 1240, 16, 64.
fn sixteen_rows() -> Vec<f32> {
    (0..16).flat_map(|r| [r as f32, 1.0, -2.0]).collect()
}

#[test]
fn dense_rows_are_summed_per_channel() {
    let data = sixteen_rows();
    let rows = packed(&data, [3, 16, 1, 1]);
    let mut c = collector();
    evaluate(&mut c, &[(dense("blk.0.a.weight", 1, &rows), rows)]);
    let e = &entry(&c, "blk.0.a.weight");
    assert_eq!((e.sum2.as_slice(), sum(e)), (&[1240.0, 16.0, 64.0][..], &[120.0, 16.0, -32.0][..]));
    assert_eq!((e.counts.as_slice(), c.collector().chunks()), (&[16][..], 1));
}

#[test]
fn rows_with_gaps_are_summed() {
    // Four floats per row, the last of which is padding, and a gap of one row between two blocks of eight.
    let mut data = vec![f32::NAN; 4 * 17];
    for r in 0..16 {
        let at = 4 * (r + r / 8);
        data[at..at + 3].copy_from_slice(&[r as f32, 1.0, -2.0]);
    }
    let rows = Rows { data: &data, ne: [3, 8, 2, 1], stride: [1, 4, 36, 72] };
    let product = Product { input_ne: [3, 16, 1, 1], ..dense("blk.0.a.weight", 1, &rows) };
    let mut c = collector();
    evaluate(&mut c, &[(product, rows)]);
    let e = &entry(&c, "blk.0.a.weight");
    assert_eq!(
        (e.sum2.as_slice(), sum(e), &e.counts[..]),
        (&[1240.0, 16.0, 64.0][..], &[120.0, 16.0, -32.0][..], &[16][..])
    );
}

#[test]
fn a_weight_with_a_matrix_per_head_has_sums_per_matrix_and_one_count() {
    // 16 rows for each of 4 heads, and a weight of 2 matrices: heads 0 and 2 belong to the first, 1 and 3 to the
    // second.
    let data: Vec<f32> = (0..4).flat_map(|head| [head as f32 + 1.0; 16]).collect();
    let rows = packed(&data, [1, 16, 4, 1]);
    let product = Product { weight_ne: [1, 8, 2, 1], ..dense("blk.0.attn_k_b.weight", 1, &rows) };
    let mut c = collector();
    evaluate(&mut c, &[(product, rows)]);
    let e = &entry(&c, "blk.0.attn_k_b.weight");
    assert_eq!(sum(e), [16.0 * (1.0 + 3.0), 16.0 * (2.0 + 4.0)]);
    assert_eq!(e.sum2, [16.0 * (1.0 + 9.0), 16.0 * (4.0 + 16.0)]);
    assert_eq!(e.counts, [32], "64 rows over 2 matrices");
}

#[test]
fn the_fourth_dimension_selects_a_group_of_matrices() {
    let data: Vec<f32> = (0..6).flat_map(|block| [f32::from(1_u8 << block); 16]).collect();
    let rows = packed(&data, [1, 16, 2, 3]);
    let product = Product { weight_ne: [1, 8, 2, 3], ..dense("blk.0.x.weight", 1, &rows) };
    let mut c = collector();
    evaluate(&mut c, &[(product, rows)]);
    let e = &entry(&c, "blk.0.x.weight");
    assert_eq!(sum(e), [16.0, 32.0, 64.0, 128.0, 256.0, 512.0]);
    assert_eq!(e.counts, [16]);
}

/// Expert ids of three tokens, two slots and four experts. Rows have four ids, of which the first two are used. Token
/// 0: experts 2, 0; token 1: 2, 3; token 2: 3, 2. No token is routed to expert 1.
const IDS: [i32; 12] = [2, 0, 9, 9, 2, 3, 9, 9, 3, 2, 9, 9];

fn strided_ids(data: &[i32]) -> Ids<'_> {
    Ids { data, n_used: 2, n_tokens: 3, stride: [1, 4] }
}

#[test]
fn experts_of_a_token_read_one_row() {
    let data = [1.0, 10.0, 2.0, 20.0, 4.0, 40.0];
    let rows = packed(&data, [2, 1, 3, 1]);
    let product = routed("blk.0.ffn_up_exps.weight", 4, 1, 2, &rows);
    let mut c = collector();
    assert!(c.asks(&product));
    c.add(&product, &rows, Some(&strided_ids(&IDS))).unwrap();
    let e = &entry(&c, "blk.0.ffn_up_exps.weight");
    assert_eq!(sum(e), [1.0, 10.0, 0.0, 0.0, 7.0, 70.0, 6.0, 60.0]);
    assert_eq!(e.sum2, [1.0, 100.0, 0.0, 0.0, 21.0, 2100.0, 20.0, 2000.0]);
    assert_eq!(e.counts, [1, 0, 3, 2], "expert 1 has no rows: its sums are 0, not NaN");
}

#[test]
fn experts_of_a_token_read_one_row_per_slot() {
    let data = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]; // token 0: slots 1, 2; token 1: 4, 8; token 2: 16, 32
    let rows = packed(&data, [1, 2, 3, 1]);
    let product = routed("blk.0.ffn_down_exps.weight", 4, 1, 2, &rows);
    let mut c = collector();
    assert!(c.asks(&product));
    c.add(&product, &rows, Some(&strided_ids(&IDS))).unwrap();
    let e = &entry(&c, "blk.0.ffn_down_exps.weight");
    assert_eq!(sum(e), [2.0, 0.0, 1.0 + 4.0 + 32.0, 8.0 + 16.0]);
    assert_eq!(e.counts, [1, 0, 3, 2]);
}

#[test]
fn an_experts_rows_are_added_slot_by_slot() {
    // The order changes the f32 sum: 1e8 + 1 loses the 1. Slot 0 of tokens 0 and 1 comes before slot 1 of token 0.
    let data = [1e8, 1.0, -1e8, 0.0]; // token 0: slots 1e8, 1; token 1: slots -1e8, 0
    let rows = packed(&data, [1, 2, 2, 1]);
    let product = routed("blk.0.ffn_down_exps.weight", 1, 1, 2, &rows);
    let ids = [0, 0, 0, 0];
    let mut c = collector();
    assert!(c.asks(&product));
    c.add(&product, &rows, Some(&Ids { data: &ids, n_used: 2, n_tokens: 2, stride: [1, 2] })).unwrap();
    assert_eq!(sum(&entry(&c, "blk.0.ffn_down_exps.weight")), [1.0], "1e8 - 1e8 + 1 + 0, not 1e8 + 1 - 1e8 + 0 = 0");
}

#[test]
fn expert_ids_out_of_range_are_an_error() {
    let rows = packed(&[1.0, 2.0, 3.0], [1, 1, 3, 1]);
    let product = routed("w", 3, 1, 2, &rows);
    let error = collector_that_asked(&product)
        .add(&product, &rows, Some(&strided_ids(&[0, 1, 9, 9, 2, 3, 9, 9, 0, 0])))
        .unwrap_err();
    assert_eq!(error, Error::ExpertId { weight: "w".into(), found: 3, experts: 3 });
    let error = collector_that_asked(&product).add(&product, &rows, Some(&strided_ids(&[0, -1, 0, 0]))).unwrap_err();
    assert_eq!(error, Error::ExpertId { weight: "w".into(), found: -1, experts: 3 });
}

fn collector_that_asked(product: &Product<'_>) -> Lane {
    let mut c = collector();
    assert!(c.asks(product));
    c
}

#[test]
fn a_sum_that_is_not_finite_is_an_error_with_its_channel() {
    let mut data = vec![1.0; 48];
    data[3 * 7 + 2] = f32::INFINITY;
    let rows = packed(&data, [3, 16, 1, 1]);
    let product = dense("blk.3.ffn_up.weight", 1, &rows);
    let error = collector_that_asked(&product).add(&product, &rows, None).unwrap_err();
    let Error::NonFinite { weight, matrix: 0, channel: 2, .. } = error else { panic!("{error}") };
    assert_eq!(weight, "blk.3.ffn_up.weight");

    // The square overflows.
    let rows = packed(&[1.0, 1e20, 1.0], [1, 1, 3, 1]);
    let product = routed("w", 4, 1, 2, &rows);
    let error = collector_that_asked(&product).add(&product, &rows, Some(&strided_ids(&IDS))).unwrap_err();
    assert!(matches!(error, Error::NonFinite { matrix: 2, channel: 0, .. }), "{error}");
}

#[test]
fn earlier_sums_are_continued_unless_their_size_differs() {
    let data = sixteen_rows();
    let rows = packed(&data, [3, 16, 1, 1]);
    let product = dense("blk.0.a.weight", 1, &rows);
    let earlier = |entry: Entry| {
        let mut imatrix = Imatrix { chunk_count: 2, chunk_size: 16, ..Default::default() };
        imatrix.entries.insert("blk.0.a.weight".into(), entry);
        let mut c = continued(&imatrix);
        assert!(c.asks(&product));
        c
    };
    // Equal counts of an older file become one. An entry without sums of activations stays without them.
    let mut c = earlier(Entry { sum2: vec![1.0; 3], sum: None, counts: vec![32, 32, 32] });
    c.add(&product, &rows, None).unwrap();
    let e = &entry(&c, "blk.0.a.weight");
    assert_eq!((&e.sum2[..], &e.sum, &e.counts[..]), (&[1241.0, 17.0, 65.0][..], &None, &[48][..]));
    assert_eq!(c.collector().chunks(), 3);

    let mut c = earlier(Entry { sum2: vec![1.0; 4], sum: None, counts: vec![32] });
    let error = c.add(&product, &rows, None).unwrap_err();
    assert!(matches!(error, Error::Size { found: 4, expected: 3, .. }), "{error}");
}

#[test]
fn one_earlier_count_is_repeated_for_every_expert() {
    let rows = packed(&[1.0, 2.0, 4.0], [1, 1, 3, 1]);
    let product = routed("w", 4, 1, 2, &rows);
    let mut imatrix = Imatrix::default();
    imatrix.entries.insert("w".into(), Entry { sum2: vec![0.0; 4], sum: Some(vec![0.0; 4]), counts: vec![5] });
    let mut c = continued(&imatrix);
    assert!(c.asks(&product));
    c.add(&product, &rows, Some(&strided_ids(&IDS))).unwrap();
    assert_eq!(entry(&c, "w").counts, [6, 5, 8, 7]);
}
