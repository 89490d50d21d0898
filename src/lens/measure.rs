//! Computes the results of a position: divergences, contributions, cosines.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::likelihood::log_sum_exp;
use crate::llama::{Entry, Exit, OutputRows, ROWS_AT_ONCE, Readout, Token};

use super::file::Part;
use super::findings::LensOptions;
use super::plan::LinearLogitOps;
use super::probe::View;
use super::structure::{AfterOp, Factor, Structure, TermValue};

/// The final distributions at several positions.
pub(super) struct Distributions {
    /// Logits or log-probabilities.
    logits: Vec<f32>,
    n_vocab: usize,
    rows: Vec<Distribution>,
}

/// The final distribution at one position.
struct Distribution {
    log_sum_exp: f64,
    likeliest: usize,
    probabilities: Vec<f32>,
}

impl Distributions {
    /// Computes the model's distributions from the input of the LM head, or reads them from a file.
    pub(super) fn last(
        view: &View<'_>,
        readout: &mut Readout<'_>,
        points: Range<usize>,
        options: &LensOptions,
    ) -> Result<Self, String> {
        let mut logits = Vec::new();
        if let Some(base) = &options.base {
            for point in &view.points[points] {
                base.file
                    .append_row(base.first_chunk + point.chunk, point.position, &mut logits)
                    .map_err(|error| error.to_string())?;
            }
        } else {
            let (width, normed) = (readout.n_embd(), view.node(view.plan.structure.normed));
            let normed = &normed[points.start * width..points.end * width];
            readout.compute(normed, Entry::Normed, Exit::Logits, &mut logits)?;
        }
        let n_vocab = readout.n_vocab();
        let rows = logits.chunks_exact(n_vocab).map(Distribution::new).collect();
        Ok(Self { logits, n_vocab, rows })
    }

    fn logits(&self, row: usize) -> &[f32] {
        &self.logits[row * self.n_vocab..][..self.n_vocab]
    }
}

impl Distribution {
    fn new(logits: &[f32]) -> Self {
        let log_sum_exp = log_sum_exp(logits);
        let probabilities = logits.iter().map(|&z| (f64::from(z) - log_sum_exp) as f32).map(f32::exp).collect();
        Self { log_sum_exp, likeliest: likeliest(logits), probabilities }
    }
}

fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (at, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = at;
        }
    }
    best
}

/// Computes per place of the plan: KL(last ‖ state), 1 if both have the same most likely token, and -ln p of the target in
/// the state. The results go to the beginning of each row.
pub(super) fn divergences(
    view: &View<'_>,
    readout: &mut Readout<'_>,
    last: &Distributions,
    points: Range<usize>,
    n_threads: usize,
    rows: &mut [Vec<f64>],
) -> Result<(), String> {
    let width = readout.n_embd();
    let mut logits = Vec::new();
    for (at, (_, node)) in view.plan.structure.places().into_iter().enumerate() {
        let stream = &view.node(node)[points.start * width..points.end * width];
        readout.compute(stream, Entry::Stream, Exit::Logits, &mut logits)?;
        let n_vocab = readout.n_vocab();
        let one = |row: usize| {
            let target = view.points[points.start + row].target;
            divergence(last.logits(row), &last.rows[row], &logits[row * n_vocab..][..n_vocab], target)
        };
        let rows_per_thread = points.len().div_ceil(n_threads.max(1)).max(1);
        let parts = (0..points.len()).into_par_iter().chunks(rows_per_thread);
        let found: Vec<_> = parts.flat_map_iter(|part| part.into_iter().map(&one)).collect();
        for (row, found) in rows[points.clone()].iter_mut().zip(found) {
            row[3 * at..3 * at + 3].copy_from_slice(&found);
        }
    }
    Ok(())
}

fn divergence(last: &[f32], known: &Distribution, state: &[f32], target: Token) -> [f64; 3] {
    let log_sum_exp = log_sum_exp(state);
    let log_p = |z: f32| f64::from(z) - known.log_sum_exp;
    let log_q = |z: f32| f64::from(z) - log_sum_exp;
    let terms = last.iter().zip(state).zip(&known.probabilities);
    let kl = terms.map(|((&zp, &zq), &p)| if p == 0.0 { 0.0 } else { f64::from(p) * (log_p(zp) - log_q(zq)) }).sum();
    let agrees = f64::from(u8::from(likeliest(state) == known.likeliest));
    let nll = usize::try_from(target).ok().and_then(|target| state.get(target)).map_or(f64::NAN, |&z| -log_q(z));
    [kl, agrees, nll]
}

/// Turns a term of the stream into its contribution to a logit, except for the scale of the final norm.
pub(super) struct PrismScale {
    rows: OutputRows,
    logit_ops: LinearLogitOps,
    /// Factor of the final norm per channel.
    gain: Vec<f64>,
    /// Constant part of the input of the LM head.
    bias: Vec<f64>,
    norm: Option<(f64, bool)>,
    mean_row: Vec<f64>,
    /// Rows of the LM head for tokens seen so far.
    known: HashMap<usize, Arc<Vec<f64>>>,
}

/// Maximum number of rows of the LM head in memory.
const MAX_KNOWN: usize = 1 << 12;

impl PrismScale {
    pub(super) fn new(structure: &Structure, rows: OutputRows, logit_ops: LinearLogitOps) -> Self {
        let mean_row = rows.mean();
        let n = mean_row.len();
        let (mut gain, mut bias, mut norm) = (vec![1.0; n], vec![0.0; n], None);
        for op in &structure.after {
            match op {
                AfterOp::Norm { eps, centered } => norm = Some((f64::from(*eps), *centered)),
                AfterOp::Mul(by) => (0..n).for_each(|i| {
                    let by = f64::from(by[i % by.len()]);
                    gain[i] *= by;
                    bias[i] *= by;
                }),
                AfterOp::Add(what) => (0..n).for_each(|i| bias[i] += f64::from(what[i % what.len()])),
                AfterOp::Scale { factor, bias: more } => (0..n).for_each(|i| {
                    gain[i] *= f64::from(*factor);
                    bias[i] = bias[i] * f64::from(*factor) + f64::from(*more);
                }),
            }
        }
        Self { rows, logit_ops, gain, bias, norm, mean_row, known: HashMap::new() }
    }

    /// Computes the contributions to two logits of each position: the next token's, then the likeliest token's. Per logit
    /// these are the raw and the relative contribution per part, then the error of their sum.
    pub(super) fn measure(
        &mut self,
        view: &View<'_>,
        readout: &mut Readout<'_>,
        start: usize,
        parts: &[(Part, Option<u32>)],
        rows: &mut [Vec<f64>],
    ) -> Result<(), String> {
        let n_vocab = readout.n_vocab();
        let width = 2 * parts.len() + 1;
        let mut products = Vec::new();
        for (point, row) in rows.iter_mut().enumerate() {
            let at = point % ROWS_AT_ONCE;
            if at == 0 {
                let width = readout.n_embd();
                let end = (point + ROWS_AT_ONCE).min(view.points.len());
                let normed = &view.node(view.plan.structure.normed)[point * width..end * width];
                readout.compute(normed, Entry::Normed, Exit::Product, &mut products)?;
            }
            let products = &products[at * n_vocab..][..n_vocab];
            let next = view.points[point].target;
            let next = usize::try_from(next).map_err(|_| format!("token {next} is not in the vocabulary"))?;
            for (i, token) in [next, self.likeliest(products)].into_iter().enumerate() {
                let product = *products.get(token).ok_or_else(|| format!("token {token} is not in the vocabulary"))?;
                let logit = f64::from(product) * self.logit_ops.factor + self.logit_ops.bias(token);
                let row = &mut row[start + i * width..][..width];
                self.decompose(view, point, token, readout.is_on_cpu(), parts, row)?;
                let counted = parts.iter().enumerate().filter(|(_, (part, _))| !part.is_detail());
                let sum: f64 = counted.map(|(at, _)| row[2 * at]).sum();
                row[width - 1] = (sum - logit).abs() / logit.abs().max(1.0);
            }
        }
        Ok(())
    }

    /// Returns the token with the largest logit. A soft cap does not change the order.
    fn likeliest(&self, products: &[f32]) -> usize {
        let logit = |token: usize| f64::from(products[token]) * self.logit_ops.factor + self.logit_ops.bias(token);
        let mut best = (0, f64::NEG_INFINITY);
        for token in 0..products.len() {
            let logit = logit(token);
            if logit > best.1 {
                best = (token, logit);
            }
        }
        best.0
    }

    /// Computes the raw and the relative contribution per part to the logit of `token`, at the beginning of `row`.
    fn decompose(
        &mut self,
        view: &View<'_>,
        point: usize,
        token: usize,
        is_on_cpu: bool,
        parts: &[(Part, Option<u32>)],
        row: &mut [f64],
    ) -> Result<(), String> {
        let structure = &view.plan.structure;
        let column_of: BTreeMap<_, usize> = parts.iter().enumerate().map(|(at, part)| (*part, 2 * at)).collect();
        row.fill(0.0);
        let mut add = |part: (Part, Option<u32>), [raw, relative]: [f64; 2]| {
            if let Some(&at) = column_of.get(&part) {
                row[at] += raw;
                row[at + 1] += relative;
            }
        };
        let of_token = self.know(token)?;
        let of_token = of_token.as_slice();
        let scale = self.scale(view.row(structure.last, point));
        let centered = self.norm.is_some_and(|(_, centered)| centered);
        for term in structure.terms.iter().flatten() {
            let value = match &term.value {
                TermValue::Node(at) => view.row(*at, point),
                TermValue::Constant(values) => values,
            };
            let addition = self.addition(value, &term.factor, scale, centered, of_token);
            add((term.class.part(), term.layer), addition);
            if let Some(detail) = term.class.detail() {
                add((detail, term.layer), addition);
            }
        }
        add((Part::NormBias, None), self.product(&self.bias, of_token));
        let bias = self.logit_ops.bias(token);
        add((Part::OutputBias, None), [bias, bias - self.logit_ops.mean_bias()]);
        if is_on_cpu {
            let normed = view.row(structure.normed, point);
            let rounded = self.rows.rounded(normed);
            let error: Vec<f64> = rounded.iter().zip(normed).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect();
            add((Part::Rounding, None), self.product(&error, of_token));
        }
        Ok(())
    }

    /// Returns the LM head's row of a token.
    fn know(&mut self, token: usize) -> Result<Arc<Vec<f64>>, String> {
        if let Some(row) = self.known.get(&token) {
            return Ok(Arc::clone(row));
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let row = Token::try_from(token).ok().and_then(|token| self.rows.row(token));
        let row = row.ok_or_else(|| format!("'{}' has no row {token}", self.rows.name()))?;
        let row = Arc::new(row.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
        self.known.insert(token, Arc::clone(&row));
        Ok(row)
    }

    /// Returns the reciprocal of the final norm's denominator.
    fn scale(&self, last: &[f32]) -> f64 {
        let Some((eps, centered)) = self.norm else { return 1.0 };
        let n = last.len() as f64;
        let mean = if centered { last.iter().map(|&x| f64::from(x)).sum::<f64>() / n } else { 0.0 };
        let square = last.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        1.0 / (square + eps).sqrt()
    }

    /// Computes the contribution of a term to a token's logit, and to that logit minus the vocabulary's mean.
    fn addition(&self, value: &[f32], factor: &Factor, scale: f64, centered: bool, of_token: &[f64]) -> [f64; 2] {
        let at = |i: usize| f64::from(value[i]) * factor.at(i);
        let n = value.len();
        let mean = if centered { (0..n).map(at).sum::<f64>() / n as f64 } else { 0.0 };
        let (mut raw, mut of_mean) = (0.0, 0.0);
        for (i, (w, w_mean)) in of_token.iter().zip(&self.mean_row).enumerate() {
            let x = (at(i) - mean) * scale * self.gain[i];
            raw += x * w;
            of_mean += x * w_mean;
        }
        [raw * self.logit_ops.factor, (raw - of_mean) * self.logit_ops.factor]
    }

    /// Computes the contribution of a part of the LM head's input.
    fn product(&self, input: &[f64], of_token: &[f64]) -> [f64; 2] {
        let dot = |row: &[f64]| input.iter().zip(row).map(|(x, w)| x * w).sum::<f64>();
        let raw = dot(of_token);
        [raw * self.logit_ops.factor, (raw - dot(&self.mean_row)) * self.logit_ops.factor]
    }
}

/// Computes three cosines per layer, around the layer, its attention and its feed-forward network; then the three relative
/// distances around them.
pub(super) fn cosine_steps(view: &View<'_>, start: usize, rows: &mut [Vec<f64>]) {
    for (at, step) in view.plan.structure.steps.iter().flatten().enumerate() {
        for (point, row) in rows.iter_mut().enumerate() {
            let input = scaled(view.row(step.input.0, point), &step.input.1);
            let sum = |parts: &[(usize, Factor)]| {
                let mut sum = vec![0.0; input.len()];
                for (node, factor) in parts {
                    let value = scaled(view.row(*node, point), factor);
                    sum.iter_mut().zip(value).for_each(|(sum, x)| *sum += x);
                }
                sum
            };
            let (attention, feed_forward) = (sum(&step.attention), sum(&step.feed_forward));
            let around = |part: &[f64], other: &[f64], reads_other: bool| {
                let before: Vec<f64> =
                    input.iter().zip(other).map(|(x, other)| if reads_other { x + other } else { *x }).collect();
                let after: Vec<f64> = before.iter().zip(part).map(|(x, part)| x + part).collect();
                (before, after)
            };
            let pairs = [
                (
                    scaled(view.row(step.input.0, point), &Factor::one()),
                    scaled(view.row(step.output, point), &Factor::one()),
                ),
                around(&attention, &feed_forward, step.attention_reads_feed_forward),
                around(&feed_forward, &attention, step.feed_forward_reads_attention),
            ];
            for (i, (before, after)) in pairs.iter().enumerate() {
                row[start + 6 * at + i] = cosine(before, after);
                row[start + 6 * at + 3 + i] = distance(before, after);
            }
        }
    }
}

fn scaled(row: &[f32], factor: &Factor) -> Vec<f64> {
    row.iter().enumerate().map(|(i, &x)| f64::from(x) * factor.at(i)).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0)
}

/// Computes ‖after - before‖ / ‖before‖.
fn distance(before: &[f64], after: &[f64]) -> f64 {
    let moved = before.iter().zip(after).map(|(a, b)| (b - a).powi(2)).sum::<f64>();
    (moved / before.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_matches_the_formula() {
        let (p, q) = ([0.5_f32, 0.25, 0.25], [0.25_f32, 0.25, 0.5]);
        let [p_logits, q_logits] = [p, q].map(|p| p.map(|x| x.ln() + 3.0));
        let [kl, agrees, nll] = divergence(&p_logits, &Distribution::new(&p_logits), &q_logits, 2);
        let expected: f64 = p.iter().zip(q).map(|(&p, q)| f64::from(p) * f64::from(p / q).ln()).sum();
        assert!((kl - expected).abs() < 1e-6 && agrees == 0.0 && (nll - 2.0_f64.ln()).abs() < 1e-6);
        let [kl, agrees, nll] = divergence(&p_logits, &Distribution::new(&p_logits), &p_logits, 9);
        assert!(kl.abs() < 1e-12 && agrees > 0.5 && nll.is_nan());
        // Undefined results are NaN.
        assert!(divergence(&p_logits, &Distribution::new(&p_logits), &[f32::NAN; 3], 0)[0].is_nan());
    }

    #[test]
    fn a_cosine_compares_directions() {
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5_f64.sqrt()).abs() < 1e-12);
        assert!(cosine(&[0.0, 0.0], &[1.0, 1.0]).is_nan());
        // A stream that doubles is not turned, but moves by its own length.
        assert!((distance(&[3.0, 4.0], &[6.0, 8.0]) - 1.0).abs() < 1e-12);
        assert!((distance(&[3.0, 4.0], &[3.0, 5.0]) - 0.2).abs() < 1e-12);
    }
}
