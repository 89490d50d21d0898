//! The cost of each type of each weight: errors times sensitivities.

use std::collections::BTreeMap;

use super::cost::{Heads, Product, estimate};
use super::errors::{Errors, Sampling, measure};
use super::moments::{Origin, Statistics};
use super::{Error, Priced, Source};
use crate::gguf::{DType, Value};

/// How errors become costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pricing {
    /// Rows that are quantized.
    pub sampling: Sampling,
    /// Measured sensitivities by weight name. Weights that are missing here get the estimate, on the same scale.
    pub measured: BTreeMap<String, f64>,
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
    let sensitivities = combined(&products, &estimate(&products, &heads(source)), &pricing.measured);
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

/// Takes what was measured, and for the rest the estimate, scaled by the median ratio of both.
fn combined(products: &[Product<'_>], estimates: &[f64], measured: &BTreeMap<String, f64>) -> Vec<f64> {
    let pairs = products.iter().zip(estimates).filter_map(|(p, &e)| Some((*measured.get(p.name)?, e)));
    let mut ratios: Vec<f64> = pairs.filter(|(m, e)| *m > 0.0 && *e > 0.0).map(|(m, e)| m / e).collect();
    ratios.sort_by(f64::total_cmp);
    let scale = ratios.get(ratios.len() / 2).copied().unwrap_or(1.0);
    let of_product = |(p, &e): (&Product<'_>, &f64)| measured.get(p.name).copied().unwrap_or(e * scale);
    products.iter().zip(estimates).map(of_product).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_scaled_to_what_was_measured() {
        let product = |name| Product {
            name,
            block: None,
            power: 1.0,
            norm: 1.0,
            spread: 1.0,
            columns: 1.0,
            is_tied: false,
            experts_used: 1.0,
        };
        let products = ["a", "b", "c", "d"].map(product);
        let measured = [("a", 10.0), ("b", 30.0), ("c", 20.0)].map(|(n, s)| (n.to_owned(), s)).into();
        assert_eq!(combined(&products, &[1.0, 2.0, 5.0, 4.0], &measured), [10.0, 30.0, 20.0, 40.0]);
        assert_eq!(combined(&products, &[1.0, 2.0, 5.0, 4.0], &BTreeMap::new()), [1.0, 2.0, 5.0, 4.0]);
    }
}
