//! Sheets of a recipe.

use std::collections::BTreeMap;

use super::sheet::{Cell, Heading, Sheet};
use crate::quantize::{Measured, Recipe, Source};
use crate::stats::name::layer_label;

/// Returns one row per weight that is quantized: its types, size, error and share of the whole cost.
#[must_use]
pub fn weights(source: &Source, measured: &[Measured], recipe: &Recipe) -> Sheet {
    let headings = [
        ("layer", "Layer", 0),
        ("tensor", "Tensor", 0),
        ("from", "From", 0),
        ("type", "Type", 0),
        ("bits", "Bits", 4),
        ("bytes", "Bytes", 0),
        ("error", "Error", 5),
        ("power", "Power", 4),
        ("sensitivity", "Sensitivity", 4),
        ("cost_share", "Cost %", 2),
    ];
    let row = |pick: &crate::quantize::Pick| {
        let weight = source.weight(&pick.name);
        let found = measured.iter().find(|m| source.weights().get(m.weight).is_some_and(|w| w.name == pick.name));
        let error = found.and_then(|m| Some(m.errors.errors[m.types.iter().position(|t| *t == pick.dtype)?]));
        let power = found.map(|m| m.errors.power);
        let number = |x: Option<f64>| x.map_or(Cell::Missing, Cell::Number);
        vec![
            Cell::Text(layer_label(weight.and_then(crate::quantize::Weight::block).unwrap_or(-1), i32::MAX)),
            Cell::Text(pick.name.clone()),
            weight.map_or(Cell::Missing, |w| Cell::Text(w.dtype.name().to_owned())),
            Cell::Text(pick.dtype.name().to_owned()),
            Cell::Number(pick.bytes as f64 * 8.0 / pick.elements as f64),
            Cell::count(Some(pick.bytes)),
            number(error.zip(power).map(|(error, power)| error / power)),
            number(power),
            number(found.map(|m| m.sensitivity)),
            Cell::Number(100.0 * pick.cost / recipe.cost),
        ]
    };
    Sheet {
        headings: headings.map(|(key, title, decimals)| Heading::new(key, title, decimals)).to_vec(),
        rows: recipe.picks.iter().map(row).collect(),
    }
}

/// Returns one row per layer, and one for the weights outside the layers.
#[must_use]
pub fn layers(source: &Source, recipe: &Recipe) -> Sheet {
    #[derive(Default)]
    struct Layer {
        bytes: u64,
        elements: u64,
        cost: f64,
    }
    let mut layers: BTreeMap<i32, Layer> = BTreeMap::new();
    for pick in &recipe.picks {
        let block = source.weight(&pick.name).and_then(crate::quantize::Weight::block).unwrap_or(-1);
        let layer = layers.entry(block).or_default();
        layer.bytes += pick.bytes;
        layer.elements += pick.elements;
        layer.cost += pick.cost;
    }
    let row = |(&block, layer): (&i32, &Layer)| {
        vec![
            Cell::Text(layer_label(block, i32::MAX)),
            Cell::Number(layer.bytes as f64 * 8.0 / layer.elements as f64),
            Cell::count(Some(layer.bytes)),
            Cell::Number(100.0 * layer.cost / recipe.cost),
        ]
    };
    let headings = [("layer", "Layer", 0), ("bits", "Bits", 4), ("bytes", "Bytes", 0), ("cost_share", "Cost %", 2)];
    Sheet {
        headings: headings.map(|(key, title, decimals)| Heading::new(key, title, decimals)).to_vec(),
        rows: layers.iter().map(row).collect(),
    }
}
