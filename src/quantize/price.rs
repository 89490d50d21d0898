//! The cost of each type of each weight: errors times sensitivities.

use super::cost::{Heads, Product, estimate};
use super::errors::{Errors, Sampling, measure};
use super::moments::{Origin, Statistics};
use super::{Error, Priced, Sensitivities, Source};
use crate::gguf::{DType, Value};

/// How errors become costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pricing {
    /// Rows that are quantized.
    pub sampling: Sampling,
    /// Measured sensitivities. Weights that are missing here have the estimate, on the same scale.
    pub measured: Sensitivities,
}

/// A weight's errors and the cost per error.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Index in [`Source::weights`].
    pub weight: usize,
    /// Types, in the order of the errors.
    pub types: Vec<DType>,
    /// Errors per type.
    pub errors: Errors,
    /// Where the inputs' moments come from.
    pub origin: Origin,
    /// Cost per expected squared error.
    pub sensitivity: f64,
}

impl Measured {
    /// Returns the cost per type.
    #[must_use]
    pub fn priced(&self) -> Priced {
        let costs = self.types.iter().zip(&self.errors.errors).map(|(&t, error)| (t, error * self.sensitivity));
        Priced { weight: self.weight, types: costs.collect() }
    }
}

/// Measures the errors of all candidates and prices them. `progress` is told the weights done after each.
///
/// # Errors
/// Values that ggml's quantizers cannot take.
pub fn price(
    source: &Source,
    statistics: &Statistics<'_>,
    candidates: &[Vec<DType>],
    pricing: &Pricing,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Measured>, Error> {
    let is_tied = source.weight("output.weight").is_none();
    let norm = source.weight("output_norm.weight").and_then(|weight| source.tensor(weight)?.to_f32());
    let mut all = Vec::new();
    for (index, (weight, types)) in source.weights().iter().zip(candidates).enumerate() {
        if types.is_empty() {
            continue;
        }
        let inputs = statistics.inputs(weight, norm.as_deref(), is_tied);
        let errors = measure(source, weight, &inputs, types, pricing.sampling)?;
        all.push(Measured { weight: index, types: types.clone(), errors, origin: inputs.origin, sensitivity: 0.0 });
        progress(all.len());
    }
    let products: Vec<Product<'_>> = all
        .iter()
        .map(|measured| {
            let weight = &source.weights()[measured.weight];
            Product {
                name: &weight.name,
                block: weight.block(),
                power: measured.errors.power,
                norm: measured.errors.norm,
                spread: measured.errors.spread,
                columns: weight.columns() as f64,
                is_tied: is_tied && weight.name == "token_embd.weight",
                experts_used: statistics.matrices_used(weight),
            }
        })
        .collect();
    let names: Vec<&str> = products.iter().map(|product| product.name).collect();
    let sensitivities = pricing.measured.combined(&names, &estimate(&products, &heads(source)));
    all.iter_mut().zip(sensitivities).for_each(|(measured, sensitivity)| measured.sensitivity = sensitivity);
    Ok(all)
}

/// The shape of the attention, from the model's keys.
fn heads(source: &Source) -> Heads {
    let key = |name: &str| source.first().get(&format!("{}.attention.{name}", source.architecture()));
    let number = |name: &str| key(name).and_then(Value::as_u64).filter(|&n| n > 0).map(|n| n as f64);
    // Per layer in some models: then an array, and the estimate does without it.
    let embedding = source.first().get(&format!("{}.embedding_length", source.architecture())).and_then(Value::as_u64);
    let query = number("head_count");
    let length = number("key_length").or_else(|| Some(embedding? as f64 / query?));
    let norms = |part: &str| {
        let norm = |weight: &super::Weight| {
            let squares = source.tensor(weight)?.to_f32()?.iter().map(|x| f64::from(x * x)).sum::<f64>();
            Some((weight.block()?, squares))
        };
        let named =
            |weight: &&super::Weight| weight.name.ends_with(part) && weight.elements() as f64 <= length.unwrap_or(0.0);
        source.weights().iter().filter(named).filter_map(norm).collect()
    };
    Heads {
        query,
        key: number("head_count_kv").or(query),
        length,
        query_norms: norms(".attn_q_norm.weight"),
        key_norms: norms(".attn_k_norm.weight"),
    }
}
