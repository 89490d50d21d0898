//! Sharing does not change results: for any graphs, each weight has the sums of its own inputs.

use std::collections::BTreeMap;

use super::*;

/// Separate sums per weight, as in llama.cpp's tool.
#[derive(Default)]
struct Apart(BTreeMap<&'static str, (f32, f32, i64)>);

impl Apart {
    fn add(&mut self, weight: &'static str, rows: &[f32]) {
        let (sum2, sum, count) = self.0.entry(weight).or_default();
        for x in rows {
            *sum2 += x * x;
            *sum += x;
        }
        *count += rows.len() as i64;
    }
}

/// Runs evaluations, given as `(weight, input)` in the order of computation; equal numbers are the same tensor. Checks
/// the sums against separate ones. Returns the number of captures in use at the end, and of inputs added.
fn run(evaluations: &[&[(&'static str, usize)]]) -> (usize, usize) {
    let (mut c, mut apart, mut added) = (collector(), Apart::default(), 0);
    for (n, evaluation) in evaluations.iter().enumerate() {
        let inputs: Vec<Vec<f32>> = (0..8)
            .map(|input| (0..16).map(|row| ((n * 131 + input * 17 + row * 7) % 97) as f32 * 0.37 - 11.0).collect())
            .collect();
        let products: Vec<_> = evaluation
            .iter()
            .map(|&(weight, input)| {
                apart.add(weight, &inputs[input]);
                let rows = packed(&inputs[input], [1, 16, 1, 1]);
                (dense(weight, 500 + input, &rows), rows)
            })
            .collect();
        added += evaluate(&mut c, &products).into_iter().filter(|&asked| asked).count();
    }
    c.begin_decode();
    let snapshot = c.collector().snapshot();
    let found: BTreeMap<_, _> =
        snapshot.entries().map(|(w, e)| (w.to_owned(), (e.sum2[0], sum(&e)[0], e.counts[0]))).collect();
    let want: BTreeMap<_, _> = apart.0.into_iter().map(|(w, sums)| (w.to_owned(), sums)).collect();
    assert_eq!(found, want);
    (c.n_captures(), added)
}

const Q: &str = "blk.0.attn_q.weight";
const K: &str = "blk.0.attn_k.weight";
const V: &str = "blk.0.attn_v.weight";

#[test]
fn weights_that_read_one_tensor_share_after_their_first_evaluation() {
    let graph: &[_] = &[(Q, 1), (K, 1), (V, 1), ("blk.0.attn_output.weight", 2)];
    assert_eq!(run(&[graph, graph, graph]), (2, 4 + 2 + 2));
}

#[test]
fn another_order_of_the_same_weights_changes_nothing() {
    assert_eq!(run(&[&[(Q, 1), (K, 1)], &[(K, 3), (Q, 3)], &[(Q, 2), (K, 2)]]), (1, 2 + 1 + 1));
}

#[test]
fn a_weight_that_reads_another_input_parts() {
    let (captures, _) = run(&[&[(Q, 1), (K, 1), (V, 1)], &[(Q, 1), (K, 1), (V, 2)], &[(Q, 1), (K, 1), (V, 1)]]);
    assert_eq!(captures, 2);
}

#[test]
fn a_weight_that_is_not_used_parts() {
    let (captures, _) = run(&[&[(Q, 1), (K, 1), (V, 1)], &[(Q, 1), (K, 1)], &[(Q, 1), (K, 1), (V, 1)]]);
    assert_eq!(captures, 2);
}

#[test]
fn an_evaluation_without_any_of_the_weights_keeps_them_together() {
    assert_eq!(run(&[&[(Q, 1), (K, 1)], &[("blk.1.attn_q.weight", 1)], &[(Q, 1), (K, 1)]]).0, 2);
}

#[test]
fn the_weight_that_added_the_shared_input_can_part() {
    run(&[&[(Q, 1), (K, 1)], &[(Q, 1), (Q, 2)], &[(Q, 1), (K, 1)]]);
    run(&[&[(Q, 1), (K, 1)], &[(Q, 1), (Q, 2), (K, 2)], &[(Q, 1), (K, 1)]]);
    run(&[&[(Q, 1), (K, 1), (V, 1)], &[(Q, 1), (Q, 2), (V, 1)], &[(Q, 1), (K, 1), (V, 1)]]);
}

/// Runs every sequence of up to four uses of three weights and three inputs, between two evaluations of the plain
/// graph.
#[test]
fn any_graph_in_between_gives_each_weight_the_sums_of_its_inputs() {
    let uses: Vec<(&'static str, usize)> = [Q, K, V].into_iter().flat_map(|w| [(w, 1), (w, 2), (w, 3)]).collect();
    let plain: &[_] = &[(Q, 1), (K, 1), (V, 1)];
    for n in 0..uses.len().pow(4) {
        // The digits of n in base 9 are up to four uses, the first use lowest; zeros at the top are left out.
        let mut middle = Vec::new();
        let mut rest = n;
        while rest > 0 {
            middle.push(uses[rest % uses.len()]);
            rest /= uses.len();
        }
        run(&[plain, &middle, plain]);
    }
}

#[test]
fn a_weight_used_twice_parts_before_its_second_input() {
    run(&[&[(Q, 1), (K, 1)], &[(Q, 1), (K, 1), (Q, 2)], &[(Q, 1), (K, 1)]]);
    run(&[&[(Q, 1), (K, 1)], &[(Q, 1), (Q, 2), (K, 1)], &[(Q, 1), (K, 1)]]);
    run(&[&[(Q, 1), (K, 1)], &[(Q, 1), (K, 1), (K, 1)], &[(Q, 1), (K, 1)]]);
}

#[test]
fn weights_of_looped_layers_do_not_share() {
    let graph: &[_] = &[(Q, 1), (K, 1), (Q, 2), (K, 2)];
    assert_eq!(run(&[graph, graph]).0, 2);
}

#[test]
fn weights_with_different_earlier_sums_do_not_share() {
    // V reads the same input as Q, but only from the second evaluation on.
    run(&[&[(Q, 1), (K, 1)], &[(Q, 1), (K, 1), (V, 1)], &[(Q, 1), (K, 1), (V, 1)]]);
}

#[test]
fn the_first_node_separates_the_graphs_of_a_decode() {
    let data: Vec<f32> = (0..16).map(|row| row as f32).collect();
    let rows = packed(&data, [1, 16, 1, 1]);
    let mut c = collector();
    c.begin_decode();
    for _ in 0..3 {
        for (node, weight) in [Q, K].into_iter().enumerate() {
            c.begin_node(node);
            let product = dense(weight, 7, &rows);
            if c.asks(&product) {
                c.add(&product, &rows, None).unwrap();
            }
        }
    }
    c.begin_decode();
    assert_eq!(c.n_captures(), 1);
    assert_eq!(entry(&c, K).counts, [48]);
}

#[test]
fn a_weight_with_loaded_sums_does_not_share_with_one_without() {
    let mut imatrix = Imatrix::default();
    imatrix.entries.insert(K.into(), Entry { sum2: vec![0.5], sum: Some(vec![0.5]), counts: vec![16] });
    let data: Vec<f32> = (0..16).map(|row| row as f32).collect();
    let rows = packed(&data, [1, 16, 1, 1]);
    let mut c = continued(&imatrix);
    for _ in 0..2 {
        evaluate(&mut c, &[(dense(Q, 1, &rows), rows), (dense(K, 1, &rows), rows)]);
    }
    assert_eq!((sum(&entry(&c, Q))[0], sum(&entry(&c, K))[0]), (240.0, 240.5));
    assert_eq!((entry(&c, Q).counts[0], entry(&c, K).counts[0]), (32, 48));
}
