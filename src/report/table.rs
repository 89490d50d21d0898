//! Prints the tables of `--show-statistics` with the bytes that upstream prints.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use super::printf::{left, number, right};
use crate::imatrix::{Imatrix, Values};
use crate::stats::name::{TensorName, layer_label};
use crate::stats::{self, LayerStats, Statistics, TensorStats, layer_statistics};

const SEPARATOR: &[u8] = b" | ";
const LAYER_WIDTH: usize = 6;
const NAME_WIDTH: usize = 40;
/// Upstream's heading of the sums. `printf` counts its 10 bytes, not its 7 characters.
const SUM_HEADING: &str = "∑ E[A²]";
/// Layer number of the output weights: after all layers.
const OUTPUT: i32 = i32::MAX;

/// The extent of the printed tables. Upstream exits with success only for `Complete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both tables were printed.
    Complete(Vec<Warning>),
    /// The table of the layers was left out; the last warning says why.
    LayerGap(Vec<Warning>),
    /// No weight has data; nothing was printed.
    NoData(Vec<Warning>),
}

impl Outcome {
    /// Returns the warnings for the user.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        match self {
            Outcome::Complete(w) | Outcome::LayerGap(w) | Outcome::NoData(w) => w,
        }
    }

    /// Returns true if upstream exits with success.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self, Outcome::Complete(_))
    }
}

/// A reason why the tables differ from the complete ones.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A statistic that could not be computed.
    Statistics(stats::Warning),
    /// Some weights have no sums of activations, so all are printed in the narrower layout.
    LegacyLayout {
        /// Number of weights without sums of activations.
        legacy: usize,
        /// Number of weights.
        total: usize,
    },
    /// Layers are missing, so adjacent layers cannot be compared.
    LayerGap {
        /// Number of layers with data.
        found: usize,
        /// First layer with data.
        first: i32,
        /// Last layer with data.
        last: i32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Statistics(w) => w.fmt(f),
            Warning::LegacyLayout { legacy, total } => {
                write!(f, "{legacy} of {total} tensors have no activation data, using the legacy layout")
            }
            Warning::LayerGap { found, first, last } => write!(
                f,
                "layer sequence gap detected (found {found} layers in range {first}-{last}, expected {}); \
                 layer statistics will not be shown",
                i64::from(*last) - i64::from(*first) + 1
            ),
        }
    }
}

/// Prints the tables of a matrix that was loaded from `file_name`.
///
/// # Errors
/// An error of `w`.
pub fn show_statistics<V: Values>(w: &mut impl Write, imatrix: &Imatrix<V>, file_name: &str) -> io::Result<Outcome> {
    let statistics = Statistics::new(&imatrix.entries, imatrix.n_layer_nextn);
    let mut warnings: Vec<_> = statistics.warnings.into_iter().map(Warning::Statistics).collect();
    let mut tensors = statistics.tensors;
    if tensors.is_empty() {
        return Ok(Outcome::NoData(warnings));
    }
    let legacy = tensors.iter().filter(|t| t.legacy).count();
    if legacy > 0 && legacy < tensors.len() {
        warnings.push(Warning::LegacyLayout { legacy, total: tensors.len() });
    }
    tensors.sort_by(in_table_order);
    let mut tables = Tables { w, full: legacy == 0, nextn_start: statistics.nextn_start };

    writeln!(tables.w, "\nComputing tensor statistics for {file_name} ({} tensors)", tensors.len())?;
    let layers = tables.tensors(&tensors)?;

    let sequence = Sequence::new(&layers, statistics.nextn_start);
    if let Some(gap) = sequence.gap() {
        warnings.push(gap);
        return Ok(Outcome::LayerGap(warnings));
    }
    writeln!(tables.w, "\nComputing layer statistics for {file_name} ({} layers)\n", sequence.all)?;
    tables.layers(&layers, &layer_statistics(&tensors))?;
    Ok(Outcome::Complete(warnings))
}

/// Compares by layer, then by name. Weights outside the layers come last, output weights after all others.
fn in_table_order(a: &TensorStats, b: &TensorStats) -> Ordering {
    let key = |t: &TensorStats| {
        let name = TensorName::new(&t.tensor);
        let outside = if is_output(&t.tensor) { OUTPUT } else { OUTPUT - 1 };
        (name.block().unwrap_or(outside), name.tensor)
    };
    key(a).cmp(&key(b))
}

fn is_output(tensor: &str) -> bool {
    tensor.contains("output")
}

/// The sums over a layer in the first table.
#[derive(Default)]
struct Layer {
    /// In single precision, as in upstream.
    sum: f32,
    elements: i32,
}

/// The layers that have data.
struct Sequence {
    all: usize,
    /// Number of layers before the `NextN` layers.
    trunk: usize,
    first: i32,
    last: i32,
}

impl Sequence {
    fn new(layers: &BTreeMap<i32, Layer>, nextn_start: i32) -> Self {
        let mut sequence = Self { all: 0, trunk: 0, first: i32::MAX, last: -1 };
        for (&block, _) in layers.range(0..9999).filter(|(_, layer)| layer.elements > 0) {
            sequence.all += 1;
            if block < nextn_start {
                sequence.trunk += 1;
                sequence.first = sequence.first.min(block);
                sequence.last = sequence.last.max(block);
            }
        }
        sequence
    }

    fn gap(&self) -> Option<Warning> {
        let &Self { trunk, first, last, .. } = self;
        // Without layers there is no gap; otherwise first and last are below 9999.
        (trunk > 0 && trunk as i64 != i64::from(last) - i64::from(first) + 1).then_some(Warning::LayerGap {
            found: trunk,
            first,
            last,
        })
    }
}

struct Tables<'w, W> {
    w: &'w mut W,
    /// True if there are sums of activations, so that the distance is printed.
    full: bool,
    nextn_start: i32,
}

impl<W: Write> Tables<'_, W> {
    /// Prints the first table and returns the sums over the layers.
    fn tensors(&mut self, tensors: &[TensorStats]) -> io::Result<BTreeMap<i32, Layer>> {
        self.w.write_all(b"\n")?;
        self.headings(&[("Layer", LAYER_WIDTH)])?;
        self.w.write_all(SEPARATOR)?;
        left(self.w, b"Tensor", NAME_WIDTH)?;
        self.w.write_all(SEPARATOR)?;
        self.headings(&[("Mean", 10), ("StdDev", 10), ("Skew", 12), ("Kurt", 12), ("H Norm", 9)])?;
        self.w.write_all(SEPARATOR)?;
        self.headings(&[(SUM_HEADING, 17), ("Gain", 8)])?;
        self.w.write_all(SEPARATOR)?;
        if self.full {
            self.headings(&[("L2 Dist", 12)])?;
        }
        self.headings(&[("PCC", 10), ("Cov", 10)])?;
        writeln!(self.w, "\n{}", "-".repeat(if self.full { 165 } else { 153 }))?;

        let mut layers: BTreeMap<i32, Layer> = BTreeMap::new();
        for t in tensors {
            let outside = if is_output(&t.tensor) { OUTPUT } else { -1 };
            let block = TensorName::new(&t.tensor).block().unwrap_or(outside);
            self.tensor(t, block)?;
            let layer = layers.entry(block).or_default();
            layer.sum = (f64::from(layer.sum) + t.sum) as f32;
            layer.elements = (i64::from(layer.elements) + t.elements) as i32;
        }
        Ok(layers)
    }

    fn tensor(&mut self, t: &TensorStats, block: i32) -> io::Result<()> {
        right(self.w, layer_label(block, self.nextn_start).as_bytes(), LAYER_WIDTH)?;
        self.w.write_all(SEPARATOR)?;
        left(self.w, &shortened(&t.tensor), NAME_WIDTH)?;
        self.w.write_all(SEPARATOR)?;
        self.numbers(&[(t.mean, 10, 4), (t.std_deviation, 10, 4), (t.skewness, 12, 4), (t.kurtosis, 12, 4)])?;
        self.numbers(&[(t.h_norm(), 8, 2)])?;
        self.w.write_all(b"%")?;
        self.w.write_all(SEPARATOR)?;
        self.w.write_all(number(t.sum, 14, 4).as_bytes())?;
        self.numbers(&[(t.gain, 8, 2)])?;
        self.w.write_all(SEPARATOR)?;
        if self.full {
            self.numbers(&[(t.l2_dist, 12, 4)])?;
        }
        self.numbers(&[(t.pearson, 10, 4), (t.covariance, 10, 4)])?;
        self.w.write_all(b"\n")
    }

    /// Prints the second table.
    fn layers(&mut self, layers: &BTreeMap<i32, Layer>, statistics: &BTreeMap<i32, LayerStats>) -> io::Result<()> {
        self.headings(&[("Layer", LAYER_WIDTH)])?;
        self.w.write_all(SEPARATOR)?;
        self.headings(&[(SUM_HEADING, 17), ("Gain", 8)])?;
        self.w.write_all(SEPARATOR)?;
        if self.full {
            self.headings(&[("L2 Dist", 12)])?;
        }
        self.headings(&[("CosSim", 9), ("PCC", 9), ("Cov", 12)])?;
        writeln!(self.w, "\n{}", "-".repeat(if self.full { 76 } else { 64 }))?;

        let none = LayerStats::NONE;
        for (&block, layer) in layers.range(0..).filter(|(_, layer)| layer.elements != 0) {
            let s = if block == OUTPUT { &none } else { statistics.get(&block).unwrap_or(&none) };
            right(self.w, layer_label(block, self.nextn_start).as_bytes(), LAYER_WIDTH)?;
            self.w.write_all(SEPARATOR)?;
            self.numbers(&[(layer.sum, 14, 4), (s.gain, 8, 2)])?;
            self.w.write_all(SEPARATOR)?;
            if self.full {
                self.numbers(&[(s.l2_dist, 12, 4)])?;
            }
            self.numbers(&[(s.cossim, 9, 4), (s.pearson, 9, 4), (s.covariance, 12, 4)])?;
            self.w.write_all(b"\n")?;
        }
        self.w.write_all(b"\n")
    }

    fn headings(&mut self, headings: &[(&str, usize)]) -> io::Result<()> {
        headings.iter().try_for_each(|(text, width)| right(self.w, text.as_bytes(), *width))
    }

    fn numbers(&mut self, numbers: &[(f32, usize, usize)]) -> io::Result<()> {
        numbers
            .iter()
            .try_for_each(|&(x, width, precision)| self.w.write_all(number(x.into(), width, precision).as_bytes()))
    }
}

/// Shortens a name that is too wide to two dots and its last bytes.
fn shortened(name: &str) -> Vec<u8> {
    let bytes = name.as_bytes();
    match bytes.len().checked_sub(NAME_WIDTH - 2) {
        Some(cut) if bytes.len() > NAME_WIDTH => [b"..", &bytes[cut..]].concat(),
        _ => bytes.to_vec(),
    }
}
