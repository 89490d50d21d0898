//! Compares the graphs, with the CPU as a device, with plain loops.

use llama_cpp_sys_2 as sys;

use super::buffer::DeviceBuffer;
use super::health::{Health, PAGE};
use super::logits::DeviceScorer;
use super::reduce::{self, Method, Products, Reduced};
use crate::likelihood::negative_log_likelihood;
use crate::llama::Backend;
use crate::llama::graph_builder::{Arena, GraphBuilder, Node};
use crate::llama::graph_runner::{GraphRunner, read_f32, write};

fn cpu() -> GraphRunner {
    let devices = Backend::init().devices();
    let mut runner = GraphRunner::new(devices.into_iter().find(|device| device.is_cpu()).unwrap()).unwrap();
    runner.set_threads(1);
    runner
}

/// Returns numbers of different magnitudes.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 7_u32;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0) * 10_f32.powi((state % 5) as i32 - 2)
        })
        .collect()
}

fn close(found: &[f32], want: &[f64], what: &str) {
    assert_eq!(found.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    for (i, (&found, &want)) in found.iter().zip(want).enumerate() {
        assert!((f64::from(found) - want).abs() <= 1e-6 * largest, "{what}: {found} at {i}, not {want}");
    }
}

/// `[Σx, Σx²]` of the rows that go to each matrix.
fn expected(x: &[f32], channels: usize, matrices: usize, of_row: impl Fn(usize) -> Vec<usize>) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * channels * matrices];
    for (row, values) in x.chunks_exact(channels).enumerate() {
        for matrix in of_row(row) {
            for (channel, &value) in values.iter().enumerate() {
                let (value, at) = (f64::from(value), matrix * 2 * channels + channel);
                sums[at] += value;
                sums[at + channels] += value * value;
            }
        }
    }
    sums
}

#[test]
fn any_number_of_rows_is_summed_for_any_number_of_matrices() {
    let mut runner = cpu();
    for (rows, matrices) in [(1, 1), (2, 1), (3, 1), (7, 1), (512, 1), (1, 4), (5, 3), (64, 2), (1023, 1)] {
        let (rows, matrices, channels): (usize, usize, usize) = (rows, matrices, 24);
        let x = numbers(channels * rows * matrices);
        let memory = DeviceBuffer::new(runner.device(), &[[channels as i64, (rows * matrices) as i64]]).unwrap();
        write(memory.get(0), &x);
        let found = runner
            .compute(
                |builder| {
                    let sums = reduce::dense(builder, memory.get(0), rows as i64, matrices as i64).sums;
                    builder.want_to_read(sums);
                    sums
                },
                |_| {},
                |&sums| read_f32(sums),
            )
            .unwrap();
        let want = expected(&x, channels, matrices, |row| vec![row / rows]);
        close(&found, &want, &format!("{rows} rows, {matrices} matrices"));
    }
}

#[test]
fn routed_rows_are_summed_per_expert_by_every_method() {
    let mut runner = cpu();
    let (channels, tokens, slots, experts) = (40_usize, 33_usize, 3_usize, 5_usize);
    // Expert 4 is never routed to.
    let ids: Vec<i32> = (0..tokens * slots).map(|i| ((i / slots * 7 + i % slots) % 4) as i32).collect();
    let mut identity = vec![0.0_f32; experts * experts];
    identity.iter_mut().step_by(experts + 1).for_each(|one| *one = 1.0);
    for row_a_slot in [false, true] {
        let rows = if row_a_slot { tokens * slots } else { tokens };
        let x = numbers(channels * rows);
        let shapes = [[channels as i64, rows as i64], [experts as i64, experts as i64]];
        let memory = DeviceBuffer::new(runner.device(), &shapes).unwrap();
        write(memory.get(0), &x);
        write(memory.get(1), &identity);
        let of_row = |row: usize| {
            let expert = |slot: usize| ids[slot] as usize;
            if row_a_slot { vec![expert(row)] } else { (row * slots..(row + 1) * slots).map(expert).collect() }
        };
        let want = expected(&x, channels, experts, of_row);
        let mut counts = vec![0.0; experts];
        (0..rows).flat_map(of_row).for_each(|expert| counts[expert] += 1.0);
        let both = [Products::Plain, Products::Split];
        for method in both.into_iter().flat_map(|products| [Method::Outer(products), Method::Inner(products)]) {
            let (sums, found_counts) = runner
                .compute(
                    |builder| {
                        let flat = builder.input_i32(ids.len() as i64);
                        let sources =
                            (memory.get(0), builder.reshape_2d(flat, slots as i64, tokens as i64), memory.get(1));
                        let shape = (tokens as i64, slots as i64, row_a_slot);
                        let reduced = reduce::routed(builder, sources, shape, method);
                        builder.want_to_read(reduced.sums);
                        builder.want_to_read(reduced.counts.unwrap());
                        (flat, reduced)
                    },
                    |(flat, _)| write(*flat, &ids),
                    |(_, reduced)| (read_f32(reduced.sums), read_f32(reduced.counts.unwrap())),
                )
                .unwrap();
            close(&sums, &want, &format!("{method:?}, a row a slot: {row_a_slot}"));
            assert_eq!(found_counts, counts);
        }
    }
}

/// The numbers that docs/devices.md states. Views are not computed.
#[test]
fn a_graph_has_few_operations() {
    let runner = cpu();
    let (channels, slots, experts) = (32, 8, 16);
    let sums = DeviceBuffer::new(runner.device(), &[[2 * channels, experts], [1, experts], [1, 1]]).unwrap();
    let identity = DeviceBuffer::new(runner.device(), &[[experts, experts]]).unwrap();
    let add = |builder: &GraphBuilder<'_>, reduced: Reduced, accumulator: Node| {
        builder.want(builder.add_to(accumulator, reduced.sums));
        reduced.counts.into_iter().for_each(|counts| builder.want(builder.add_to(sums.get(1), counts)));
        builder.want(builder.add_to(sums.get(2), builder.sum(reduced.sums)));
    };
    let count = |build: &dyn Fn(&GraphBuilder<'_>)| {
        let mut arena = Arena::new();
        let builder = arena.builder().unwrap();
        build(&builder);
        let views = ["VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"];
        builder.nodes().filter(|node| !views.contains(&node.op_name())).count()
    };
    for (rows, operations) in [(1, 5), (32, 11), (512, 15), (2048, 17)] {
        let found = count(&|builder| {
            let x = builder.input_rows(channels, rows);
            add(builder, reduce::dense(builder, x, rows, 1), builder.rows(sums.get(0), 0, 1));
        });
        assert_eq!(found, operations, "{rows} rows");
    }
    let (plain, split) = (Products::Plain, Products::Split);
    for (row_a_slot, method, operations) in [
        (false, Method::Outer(plain), 13),
        (true, Method::Outer(plain), 11),
        (false, Method::Outer(split), 33),
        (false, Method::Inner(plain), 13),
        (false, Method::Inner(split), 23),
    ] {
        let found = count(&|builder| {
            let tokens = 512;
            let x = builder.input_rows(channels, if row_a_slot { slots * tokens } else { tokens });
            let ids = builder.reshape_2d(builder.input_i32(slots * tokens), slots, tokens);
            let sources = (x, ids, identity.get(0));
            add(builder, reduce::routed(builder, sources, (tokens, slots, row_a_slot), method), sums.get(0));
        });
        assert_eq!(found, operations, "{method:?}, a row a slot: {row_a_slot}");
    }
}

#[test]
fn a_sum_that_is_not_finite_is_found_until_the_next_batch() {
    let runner = cpu();
    let mut health = Health::default();
    assert_eq!(health.first_bad(), None);
    let (page, offset) = health.slot("blk.1.ffn_up.weight", runner.device()).unwrap();
    let (_, other) = health.slot("blk.0.ffn_up.weight", runner.device()).unwrap();
    assert_eq!((offset, other), (0, 4));
    let mut sums = vec![1.0_f32; PAGE];
    sums[1] = f32::NAN;
    write(page, &sums);
    assert_eq!(health.first_bad().as_deref(), Some("blk.0.ffn_up.weight"));
    health.clear();
    assert_eq!(health.first_bad(), None);
}

/// ggml would abort the process at an operation that the device lacks.
#[test]
fn an_operation_that_the_device_lacks_is_not_computed_there() {
    let mut runner = cpu();
    let memory = DeviceBuffer::new(runner.device(), &[[256, 4]]).unwrap();
    let cast = |runner: &mut GraphRunner, to| runner.supports(|builder| builder.want(builder.cast(memory.get(0), to)));
    assert!(cast(&mut runner, sys::GGML_TYPE_F16));
    assert!(!cast(&mut runner, sys::GGML_TYPE_IQ2_XXS), "it takes an importance matrix");
}

/// The error is less than that of one f32 sum of all exponentials, which is 1e-8 or more.
#[test]
fn scores_are_those_of_exact_sums() {
    let mut runner = cpu();
    let (channels, n_vocab, rows) = (32_usize, 8_000_usize, 24_usize);
    let memory =
        DeviceBuffer::new(runner.device(), &[[channels as i64, n_vocab as i64], [channels as i64, rows as i64]])
            .unwrap();
    let small = |n| numbers(n).iter().map(|x| x / 64.0).collect::<Vec<f32>>();
    write(memory.get(0), &small(channels * n_vocab));
    write(memory.get(1), &small(channels * rows));
    let product = |builder: &GraphBuilder<'_>| {
        let logits = builder.mul_mat(memory.get(0), memory.get(1));
        builder.want_to_read(logits);
        logits
    };
    let logits = runner.compute(product, |_| {}, |&logits| read_f32(logits)).unwrap();
    let targets: Vec<i32> = (0..rows as i32).map(|row| row * 331).collect();

    let (mut arena, mut found) = (Arena::new(), Vec::new());
    let builder = arena.builder().unwrap();
    let node = builder.mul_mat(memory.get(0), memory.get(1));
    // SAFETY: the product's sources are in the device's memory, which stays; it has these rows.
    unsafe {
        let mut scorer = DeviceScorer::new(runner.device(), memory.get(0).0.as_ref(), &Vec::new()).unwrap();
        scorer.score(node.0.as_ref(), &Vec::new(), &(0..rows), &targets, &mut found).unwrap();
    }
    let want = logits.chunks_exact(n_vocab).zip(&targets).map(|(row, &target)| negative_log_likelihood(row, target));
    let errors: Vec<f64> = want.zip(&found).map(|(want, found)| (want - found).abs()).collect();
    assert_eq!(errors.len(), rows);
    assert!(errors.iter().sum::<f64>() / (rows as f64) < 5e-9, "{errors:?}");
}
