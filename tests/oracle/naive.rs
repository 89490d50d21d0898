//! Sums as the tool we replace makes them, row by row, written for reading and for nothing else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::llama::{Observer, ObserverError, Op, TensorInfo, TensorRef};

use super::cases::Setup;
use super::exact::ExactSums;

/// Sums of one weight: per matrix `n` values.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub(super) sum: Vec<f32>,
    pub(super) sum2: Vec<f32>,
    pub(super) counts: Vec<i64>,
    /// The same, exact, where that is asked for.
    pub(super) exact: Option<ExactSums>,
}

impl Sums {
    fn add_row(&mut self, matrix: usize, x: &[f32]) {
        let at = matrix * x.len();
        for (j, &x) in x.iter().enumerate() {
            self.sum2[at + j] += x * x;
            self.sum[at + j] += x;
            if let Some(exact) = &mut self.exact {
                exact.add(at + j, x);
            }
        }
    }

    fn prepare(&mut self, values: usize, counts: usize, exact: bool) {
        if self.sum.is_empty() {
            self.sum = vec![0.0; values];
            self.sum2 = vec![0.0; values];
            self.counts = vec![0; counts];
            self.exact = exact.then(|| ExactSums::zeros(values));
        }
        assert_eq!((self.sum.len(), self.counts.len()), (values, counts));
    }
}

pub(super) type Shared = Rc<RefCell<BTreeMap<String, Sums>>>;

pub(super) struct Naive {
    pub(super) sums: Shared,
    process_output: bool,
    nextn: bool,
    min_rows: i64,
    exact: bool,
    data: Vec<f32>,
    ids: Vec<i32>,
}

impl Naive {
    pub(super) fn new(setup: &Setup, earlier: &Imatrix) -> Self {
        let sums = earlier.entries.iter().map(|(name, entry)| {
            let (sum, sum2) = (entry.sum.clone().unwrap(), entry.sum2.clone());
            let exact = setup.exact.then(|| ExactSums::from_rounded(&sum, &sum2));
            (name.clone(), Sums { sum, sum2, counts: entry.counts.clone(), exact })
        });
        Self { sums: Rc::new(RefCell::new(sums.collect())), ..Self::onto(setup, &Shared::default()) }
    }

    /// Adds to the sums of another observer.
    pub(super) fn onto(setup: &Setup, sums: &Shared) -> Self {
        Self {
            sums: Rc::clone(sums),
            process_output: setup.process_output,
            nextn: setup.nextn,
            min_rows: setup.min_rows,
            exact: setup.exact,
            data: Vec::new(),
            ids: Vec::new(),
        }
    }
}

/// The weight's name without what the scheduler puts before the first `#` and after the second.
fn plain_name(name: &str) -> String {
    let mut parts = name.split('#');
    match (parts.next(), parts.next()) {
        (_, Some(middle)) => middle.to_owned(),
        _ => name.to_owned(),
    }
}

impl Observer for Naive {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        match node.op() {
            Op::MulMatId => true,
            Op::MulMat => {
                let (weight, input) = (node.src(0).unwrap(), node.src(1).unwrap());
                if input.ne()[1] < self.min_rows || !input.is_f32() {
                    return false;
                }
                let name = plain_name(weight.name());
                let is_output = ["output.weight", "token_embd.weight", "nextn.post_projection.weight"];
                name.starts_with("blk.")
                    || self.process_output && is_output.contains(&name.as_str())
                    || self.nextn && name == "nextn.pre_projection.weight"
            }
            _ => false,
        }
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        let (weight, input) = (node.src(0).unwrap(), node.src(1).unwrap());
        assert!(input.copy_f32(&mut self.data));
        assert_eq!(input.nb()[0], 4, "a row lies in one piece");
        let ne = input.ne().map(|n| n as usize);
        let [_, row_step, step2, step3] = input.nb().map(|bytes| bytes / 4);
        let weight_ne = weight.ne().map(|n| n as usize);
        let width = ne[0];
        let mut sums = self.sums.borrow_mut();
        let entry = sums.entry(plain_name(weight.name())).or_default();

        if node.op() == Op::MulMatId {
            let ids = node.src(2).unwrap();
            assert!(ids.copy_i32(&mut self.ids));
            let n_experts = weight_ne[2];
            entry.prepare(width * n_experts, n_experts, self.exact);
            let [id_step, id_row_step, ..] = ids.nb().map(|bytes| bytes / 4);
            for slot in 0..ids.ne()[0] as usize {
                for token in 0..ne[2] {
                    let expert = self.ids[token * id_row_step + slot * id_step] as usize;
                    let from = slot % ne[1] * row_step + token * step2;
                    entry.add_row(expert, &self.data[from..from + width]);
                    entry.counts[expert] += 1;
                }
            }
            return Ok(());
        }

        let n_matrices = weight_ne[2] * weight_ne[3];
        entry.prepare(width * n_matrices, 1, self.exact);
        for i3 in 0..ne[3] {
            for i2 in 0..ne[2] {
                let matrix = i3 % weight_ne[3] * weight_ne[2] + i2 % weight_ne[2];
                for row in 0..ne[1] {
                    let from = row * row_step + i2 * step2 + i3 * step3;
                    entry.add_row(matrix, &self.data[from..from + width]);
                }
            }
        }
        entry.counts[0] += (ne[1] * ne[2] * ne[3] / n_matrices) as i64;
        Ok(())
    }
}
