//! What an error of a weight's product costs the model: its sensitivity, cost per squared error.
//!
//! Measured sensitivities are the change of the KL divergence per squared error (`llama-imatrix sensitivity`). Without
//! them this module estimates them from the sizes of the products alone. Both give the recipe its costs; only their
//! ratios matter.

use std::collections::BTreeMap;

use super::rules::is_embedding;

/// A weight as the estimate sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Product<'a> {
    /// Name of the weight.
    pub name: &'a str,
    /// Its layer, if any.
    pub block: Option<i32>,
    /// Expected square of its product per token; for embeddings that of an embedding.
    pub power: f64,
    /// Sum of the squares of its weights, per matrix.
    pub norm: f64,
    /// See [`Errors::spread`](super::errors::Errors::spread).
    pub spread: f64,
    /// Elements per row.
    pub columns: f64,
    /// True if the weight is also the output matrix.
    pub is_tied: bool,
    /// Experts that a token is routed to; 1 for all other weights.
    pub experts_used: f64,
}

/// The shape of the attention. The estimate omits unknown parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads {
    /// Heads of queries.
    pub query: Option<f64>,
    /// Heads of keys.
    pub key: Option<f64>,
    /// Elements per head.
    pub length: Option<f64>,
    /// Per layer, the square of a head of queries after its norm, in models that have one.
    pub query_norms: BTreeMap<i32, f64>,
    /// The same for keys.
    pub key_norms: BTreeMap<i32, f64>,
}

/// The part that a weight plays in the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Its product is the beginning of the stream.
    Embedding,
    /// Its product is added to the stream.
    Writer,
    /// Its product is an input of a writer.
    Inner,
    /// Its product has the logits.
    Output,
}

/// Estimates the sensitivity of each weight.
///
/// It assumes that an error of the stream, relative to the stream where it is added, is the relative error of the
/// logits: later layers keep its size. Then a squared error `e` costs
///
/// - in a product that is added to the stream: `e / S`, where `S` is the square of the stream after that layer, the sum of the
///   squares of all that was added so far (terms are taken as uncorrelated);
/// - in values, and in a product inside a layer that is not named below: its relative error `e / P`, times the square of what
///   the layer then adds, over `S`;
/// - in queries and keys the same times `σ²`, the mean square of an attention score: the relative error of a score becomes one of
///   the attention's weights;
/// - in `ffn_up` and `ffn_gate` of `n` rows: `e` times the mean square of the other one's product, times the squares of
///   `ffn_down`'s weights per column, over `S`: errors are taken as independent of the activations;
/// - in the output matrix: `e / R`, where `R` is what a relative error of 1 of the stream, in a random direction, changes the
///   differences of the logits by.
///
/// The sum of an error's costs is thus the squared error of the logits, relative to `R`. The last three have factors
/// ([`FACTORS`]), since their assumptions are rough.
#[must_use]
pub fn estimate(products: &[Product<'_>], heads: &Heads) -> Vec<f64> {
    let stream = Stream::new(products, heads);
    products.iter().map(|product| stream.sensitivity(product)).collect()
}

/// Factors of the estimate, relative to products that are added to the stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Of queries.
    pub query: f64,
    /// Of keys.
    pub key: f64,
    /// Of `ffn_up`.
    pub up: f64,
    /// Of `ffn_gate`.
    pub gate: f64,
    /// Of the output matrix.
    pub output: f64,
}

/// The factors that the estimate uses. They are fitted to sensitivities measured on one model, the bundled one
/// (`docs/recipes.md`).
pub const FACTORS: Factors = Factors { query: 1.3, key: 2.6, up: 1.0, gate: 2.0, output: 3.0 };

/// The residual stream, layer by layer.
struct Stream<'p> {
    products: BTreeMap<&'p str, &'p Product<'p>>,
    heads: &'p Heads,
    /// Square of the embeddings.
    first: f64,
    /// Per layer, the square of the stream after it, and of what its attention and its feed-forward part add.
    layers: BTreeMap<i32, Layer>,
}

#[derive(Clone, Copy, Default)]
struct Layer {
    attention: f64,
    feed_forward: f64,
    after_attention: f64,
    after: f64,
}

impl<'p> Stream<'p> {
    fn new(products: &'p [Product<'p>], heads: &'p Heads) -> Self {
        let embedding = products.iter().find(|p| p.name == "token_embd.weight" && !p.is_tied);
        let mut layers: BTreeMap<i32, Layer> = BTreeMap::new();
        for product in products {
            let (Some(block), Part::Writer) = (product.block, part(product)) else { continue };
            let layer = layers.entry(block).or_default();
            *(if is_feed_forward(product.name) { &mut layer.feed_forward } else { &mut layer.attention }) +=
                added(product);
        }
        // Without known embeddings the stream begins with the output of the first layer.
        let first_added = layers.values().next().map_or(1.0, |layer| layer.attention + layer.feed_forward);
        let first = embedding.map_or(first_added, |p| p.power).max(f64::MIN_POSITIVE);
        let mut sum = first;
        for layer in layers.values_mut() {
            layer.after_attention = sum + layer.attention;
            layer.after = layer.after_attention + layer.feed_forward;
            sum = layer.after;
        }
        Self { products: products.iter().map(|p| (p.name, p)).collect(), heads, first, layers }
    }

    fn sensitivity(&self, product: &Product<'_>) -> f64 {
        let relative = if product.power > 0.0 { product.power.recip() } else { 0.0 };
        let Some(layer) = product.block.and_then(|block| self.layers.get(&block)) else {
            return match part(product) {
                Part::Embedding => self.first.recip(),
                Part::Output if product.spread > 0.0 => FACTORS.output / product.spread,
                _ => relative,
            };
        };
        let (adds, stream) = if is_feed_forward(product.name) {
            (layer.feed_forward, layer.after)
        } else {
            (layer.attention, layer.after_attention)
        };
        match part(product) {
            Part::Writer => added(product) * relative / stream,
            _ => self.feed_forward(product).unwrap_or_else(|| relative * adds * self.attention(product)) / stream,
        }
    }

    /// What an error of `ffn_up` or `ffn_gate` adds to the stream, per squared error.
    fn feed_forward(&self, product: &Product<'_>) -> Option<f64> {
        let kinds = [("ffn_up", "ffn_gate", FACTORS.up), ("ffn_gate", "ffn_up", FACTORS.gate)];
        let (own, other, factor) = kinds.into_iter().find(|(own, ..)| product.name.contains(own))?;
        if product.name.contains("ffn_gate_up") {
            return None;
        }
        let down = self.products.get(product.name.replacen(own, "ffn_down", 1).as_str())?;
        let used = product.experts_used.max(1.0);
        let other = self.products.get(product.name.replacen(own, other, 1).as_str());
        // Each of a token's experts has its share of the square.
        let mean_square = other.map_or(1.0, |other| other.power / used / down.columns);
        Some(factor * mean_square * down.norm / down.columns / used.powi(2))
    }

    /// The factor for queries and keys.
    fn attention(&self, product: &Product<'_>) -> f64 {
        let factor = match product.name {
            name if name.contains(".attn_q.") => FACTORS.query,
            name if name.contains(".attn_k.") => FACTORS.key,
            _ => return 1.0,
        };
        let Some(block) = product.block else { return 1.0 };
        let square = |norms: &BTreeMap<i32, f64>, name: &str, heads: Option<f64>| {
            let of_product = || Some(self.products.get(format!("blk.{block}.{name}.weight").as_str())?.power / heads?);
            norms.get(&block).copied().or_else(of_product)
        };
        let query = square(&self.heads.query_norms, "attn_q", self.heads.query);
        let key = square(&self.heads.key_norms, "attn_k", self.heads.key);
        let score = || Some(query? * key? / self.heads.length?.powi(2));
        score().map_or(1.0, |score| factor * score)
    }
}

fn part(product: &Product<'_>) -> Part {
    let name = product.name;
    let writes = ["attn_output", "ffn_down", "ssm_out", "attn_out.", "shortconv.out_proj", "time_mix_output"];
    if product.block.is_none() {
        return if is_embedding(name) && !product.is_tied { Part::Embedding } else { Part::Output };
    }
    if writes.iter().any(|part| name.contains(part)) { Part::Writer } else { Part::Inner }
}

fn is_feed_forward(name: &str) -> bool {
    name.contains(".ffn_")
}

/// Square of what a writer adds to the stream. Each of the `k` experts of a token is weighted by about 1/k.
fn added(product: &Product<'_>) -> f64 {
    product.power / product.experts_used.max(1.0).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(name: &str, power: f64) -> Product<'_> {
        let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        Product { name, block, power, norm: 6.0, spread: 50.0, columns: 4.0, is_tied: false, experts_used: 1.0 }
    }

    #[test]
    fn costs_are_relative_to_the_stream() {
        let products = [
            product("token_embd.weight", 2.0),
            product("blk.0.attn_v.weight", 5.0),
            product("blk.0.attn_output.weight", 2.0),
            product("blk.0.attn_q.weight", 3.0),
            product("blk.0.attn_k.weight", 5.0),
            product("blk.0.ffn_up.weight", 10.0),
            product("blk.0.ffn_gate.weight", 8.0),
            product("blk.0.ffn_down.weight", 4.0),
            product("blk.1.ffn_down.weight", 8.0),
            product("output.weight", 100.0),
        ];
        let heads = Heads { query: Some(2.0), key: Some(1.0), length: Some(2.0), ..Heads::default() };
        let found = estimate(&products, &heads);
        let score = (3.0 / 2.0) * 5.0 / 4.0;
        let expected = [
            1.0 / 2.0,
            2.0 / 5.0 / 4.0,
            1.0 / 4.0,
            FACTORS.query * score * 2.0 / 3.0 / 4.0,
            FACTORS.key * score * 2.0 / 5.0 / 4.0,
            FACTORS.up * (8.0 / 4.0) * (6.0 / 4.0) / 8.0,
            FACTORS.gate * (10.0 / 4.0) * (6.0 / 4.0) / 8.0,
            1.0 / 8.0,
            1.0 / 16.0,
            FACTORS.output / 50.0,
        ];
        for ((product, found), expected) in products.iter().zip(found).zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{}: {found} expected {expected}", product.name);
        }
    }
}
