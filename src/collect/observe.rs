//! A lane as an observer of a llama.cpp context.

use crate::llama::{Observer, ObserverError, Op, TensorInfo, TensorRef};
use crate::options::SumOn;

use super::error::Error;
use super::evaluation::Evaluation;
use super::lane::Lane;
use super::product::{Ids, Kind, Product, Rows};

/// Buffers for host copies of tensors on a device, reused between calls.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    input: Vec<f32>,
    ids: Vec<i32>,
}

impl Observer for Lane {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        self.begin_node(node.id());
        product(node).is_some_and(|product| Lane::asks(self, &product))
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        let (Some(product), Some(input)) = (product(*node), node.src(1)) else { return Ok(()) };
        if self.sums_on_device(node) {
            return Ok(self.add_on_device(&product, node)?);
        }
        Ok(add(&mut self.evaluation, &product, input, node.src(2), &mut self.fetched)?)
    }

    fn end_decode(&mut self) {
        self.end_evaluation();
    }
}

impl Lane {
    fn sums_on_device(&mut self, node: TensorRef<'_>) -> bool {
        match self.sum_on() {
            SumOn::Host => false,
            SumOn::Auto => self.devices.takes(node, false),
            SumOn::Device => self.devices.takes(node, true),
        }
    }

    fn add_on_device(&mut self, product: &Product<'_>, node: TensorRef<'_>) -> Result<(), Error> {
        self.evaluation.add_on_device(product, |sums| {
            self.devices.add(product.weight, node, sums).map_err(|error| Error::Device {
                weight: product.weight.to_owned(),
                device: error.device,
                reason: error.reason,
            })
        })
    }
}

fn product(node: TensorInfo<'_>) -> Option<Product<'_>> {
    let (kind, ids) = match node.op() {
        Op::MulMat => (Kind::Dense, 0),
        Op::MulMatId => (Kind::Routed, node.src(2)?.id()),
        Op::Other => return None,
    };
    let (weight, input) = (node.src(0)?, node.src(1)?);
    Some(Product {
        kind,
        weight: weight.base_name(),
        weight_ne: weight.ne(),
        input: input.id(),
        input_ne: input.ne(),
        input_is_f32: input.is_f32(),
        ids,
    })
}

fn add(
    evaluation: &mut Evaluation,
    product: &Product<'_>,
    input: TensorRef<'_>,
    ids: Option<TensorRef<'_>>,
    fetched: &mut Fetched,
) -> Result<(), Error> {
    let refuse = |rule, found| Error::Input { weight: product.weight.to_owned(), rule, found };
    let stride = input.nb().map(|nb| nb / size_of::<f32>());
    if !input.is_f32() || stride[0] != 1 || input.nb().iter().any(|nb| nb % size_of::<f32>() != 0) {
        return Err(refuse("expected contiguous rows of f32", format!("{input:?} with strides {:?}", input.nb())));
    }
    let data = match input.as_f32() {
        Some(data) => data,
        None if input.copy_f32(&mut fetched.input) => &fetched.input,
        None => return Err(refuse("expected a computed input", format!("{input:?} without a buffer"))),
    };
    let rows = Rows { data, ne: input.ne().map(|n| n as usize), stride };
    let Some(ids) = ids.filter(|_| product.kind == Kind::Routed) else {
        return evaluation.add(product, &rows, None);
    };
    if !ids.copy_i32(&mut fetched.ids) {
        return Err(refuse("expected computed i32 expert ids", format!("{ids:?}")));
    }
    let [n_used, n_tokens, ..] = ids.ne().map(|n| n as usize);
    let [slot, token, ..] = ids.nb().map(|nb| nb / size_of::<i32>());
    evaluation.add(product, &rows, Some(&Ids { data: &fetched.ids, n_used, n_tokens, stride: [slot, token] }))
}
