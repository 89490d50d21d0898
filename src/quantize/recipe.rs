//! The recipe: one type per weight.

use super::file_size::padded;
use super::groups::fused;
use super::knapsack::{Choice, curve, solve};
use super::pattern::name_matches;
use super::rules::{allows_quantization, requires_entry};
use super::{Error, Source, Weight};
use crate::gguf::DType;
use crate::mixture::written_type;

/// The budget for the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits per weight over all tensors, as `llama-quantize` prints them.
    BitsPerWeight(f64),
    /// Bytes of the whole file.
    FileBytes(u64),
}

/// The types that weights may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraints {
    /// Types to choose from.
    pub types: Vec<DType>,
    /// A weight whose name matches the pattern (`*` and `?`) has this type. The first match counts.
    pub keep: Vec<(String, DType)>,
    /// The same type for weights whose products llama.cpp fuses.
    pub fuse: bool,
}

impl Default for Constraints {
    fn default() -> Self {
        use DType::{IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
        let types =
            vec![IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, Q2_K, IQ3_XXS, IQ3_S, Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K, Q8_0];
        Self { types, keep: Vec::new(), fuse: true }
    }
}

impl Constraints {
    /// Removes types with fewer bits than `min` or more than `max`.
    pub fn limit(&mut self, min: Option<DType>, max: Option<DType>) {
        let at_least = |t: DType| min.is_none_or(|min| bits(t) >= bits(min));
        let at_most = |t: DType| max.is_none_or(|max| bits(t) <= bits(max));
        self.types.retain(|&t| at_least(t) && at_most(t));
    }

    /// Returns the types that each weight may have, in the order of [`Source::weights`]; none for those that stay as
    /// they are.
    ///
    /// `has_entry` tells whether the matrix has data for a weight.
    ///
    /// # Errors
    /// A model that is already quantized, and constraints that leave a weight without a type.
    pub fn candidates(&self, source: &Source, has_entry: impl Fn(&Weight) -> bool) -> Result<Vec<Vec<DType>>, Error> {
        let quantizes = |weight: &&Weight| allows_quantization(source.architecture(), weight);
        for (pattern, _) in &self.keep {
            if !source.weights().iter().filter(quantizes).any(|weight| name_matches(pattern, &weight.name)) {
                return Err(Error::KeepsNothing(pattern.clone()));
            }
        }
        let of_weight = |weight: &Weight| {
            if quantizes(&weight) { self.of_weight(source, weight, has_entry(weight)) } else { Ok(Vec::new()) }
        };
        let candidates = source.weights().iter().map(of_weight).collect::<Result<Vec<_>, _>>()?;
        if candidates.iter().all(Vec::is_empty) {
            return Err(Error::NothingToQuantize { path: source.path().to_owned() });
        }
        Ok(candidates)
    }

    fn of_weight(&self, source: &Source, weight: &Weight, has_entry: bool) -> Result<Vec<DType>, Error> {
        let no_type = |reason: String| Error::NoType { tensor: weight.name.clone(), reason };
        let allowed = |dtype: DType| has_entry || !requires_entry(&weight.name, dtype);
        if let Some((pattern, kept)) = self.keep.iter().find(|(pattern, _)| name_matches(pattern, &weight.name)) {
            if *kept == weight.dtype {
                return Ok(vec![*kept]);
            }
            refuse_quantized(source, weight)?;
            let dtype = written_type(*kept, weight.columns()).filter(|t| t == kept).ok_or_else(|| {
                no_type(format!("--keep '{pattern}={kept}', but {} columns are not whole blocks", weight.columns()))
            })?;
            if !allowed(dtype) {
                return Err(no_type(format!("--keep '{pattern}={kept}', but the matrix has no entry for it")));
            }
            return Ok(vec![dtype]);
        }
        refuse_quantized(source, weight)?;
        let mut types: Vec<DType> =
            self.types.iter().filter_map(|&t| written_type(t, weight.columns())).filter(|&t| allowed(t)).collect();
        types.sort_by(|a, b| bits(*a).total_cmp(&bits(*b)).then(a.id().cmp(&b.id())));
        types.dedup();
        if types.is_empty() {
            let names: Vec<&str> = self.types.iter().map(|t| t.name()).collect();
            return Err(no_type(format!(
                "of {}, none is left for {} columns{}",
                names.join(", "),
                weight.columns(),
                if has_entry { "" } else { " without an entry in the matrix" }
            )));
        }
        Ok(types)
    }
}

fn refuse_quantized(source: &Source, weight: &Weight) -> Result<(), Error> {
    if matches!(weight.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0) {
        return Ok(());
    }
    Err(Error::Quantized { path: source.path().to_owned(), tensor: weight.name.clone(), dtype: weight.dtype })
}

/// Bits per weight of a type.
fn bits(dtype: DType) -> f64 {
    8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64
}

/// The type of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// Name of the weight.
    pub name: String,
    /// Its type.
    pub dtype: DType,
    /// Bytes of its data.
    pub bytes: u64,
    /// Number of elements.
    pub elements: u64,
    /// Its cost.
    pub cost: f64,
}

/// The types of all weights that are quantized, with their total size and cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// One per weight that `llama-quantize` quantizes, in the order of the file.
    pub picks: Vec<Pick>,
    /// Size of the file that `llama-quantize` writes.
    pub file_bytes: u64,
    /// Bytes of all tensors' data.
    pub tensor_bytes: u64,
    /// Number of elements of all tensors.
    pub elements: u64,
    /// Sum of all costs.
    pub cost: f64,
    /// No mix within the budget costs less than this.
    pub bound: f64,
    /// True if no mix within the budget costs less.
    pub is_optimal: bool,
    /// Least cost over the whole range of file sizes.
    pub curve: Vec<(u64, f64)>,
}

/// A weight's types and what each costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Priced {
    /// Index in [`Source::weights`].
    pub weight: usize,
    /// Types and costs.
    pub types: Vec<(DType, f64)>,
}

impl Recipe {
    /// Chooses a type per weight, at the least cost within a budget. `header` has the bytes before the tensor data.
    ///
    /// # Errors
    /// A budget below the smallest or above the largest mix.
    pub fn choose(source: &Source, priced: &[Priced], header: u64, budget: Budget, fuse: bool) -> Result<Self, Error> {
        let stays = |i: &usize| !priced.iter().any(|p| p.weight == *i);
        let fixed: Vec<&Weight> = (0..source.weights().len()).filter(stays).map(|i| &source.weights()[i]).collect();
        let raw = |weight: &Weight, dtype| weight.bytes_as(dtype).unwrap_or(0);
        // In bits per weight, padding does not count.
        let counted = |bytes: u64| if matches!(budget, Budget::FileBytes(_)) { padded(bytes) } else { bytes };
        let outside: u64 = fixed.iter().map(|w| counted(raw(w, w.dtype))).sum();
        let groups = Group::all(source, priced, fuse, &counted);
        let items: Vec<Vec<Choice>> = groups.iter().map(|group| group.choices.clone()).collect();
        let (allowed, outside) = match budget {
            Budget::BitsPerWeight(bits) => ((bits * source.elements() as f64 / 8.0) as u64, outside),
            Budget::FileBytes(bytes) => (bytes, outside + header),
        };
        check_budget(source, &items, allowed, outside, budget)?;
        let solution = solve(&items, allowed - outside).ok_or_else(|| below(source, &items, outside, budget))?;

        let mut picks = Vec::new();
        for (group, &choice) in groups.iter().zip(&solution.picks) {
            picks.extend(group.picks(source, priced, group.types[choice]));
        }
        picks.sort_by_key(|(weight, _)| *weight);
        let picks: Vec<Pick> = picks.into_iter().map(|(_, pick)| pick).collect();
        let sizes = || picks.iter().map(|p| p.bytes).chain(fixed.iter().map(|w| raw(w, w.dtype)));
        let file_bytes = header + sizes().map(padded).sum::<u64>();
        let tensor_bytes = sizes().sum();
        // The curve is over file sizes. Padding and header differ by a few bytes per tensor at most.
        let beside = file_bytes - solution.bytes;
        let curve = curve(&items).into_iter().map(|c| (c.bytes + beside, c.cost)).collect();
        Ok(Self {
            picks,
            file_bytes,
            tensor_bytes,
            elements: source.elements(),
            cost: solution.cost,
            bound: solution.bound,
            is_optimal: solution.is_optimal,
            curve,
        })
    }

    /// Returns the bits per weight, as `llama-quantize` prints them.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        self.tensor_bytes as f64 * 8.0 / self.elements as f64
    }

    /// Returns the type of most elements.
    #[must_use]
    pub fn main_type(&self) -> DType {
        let elements = |t: DType| self.picks.iter().filter(|p| p.dtype == t).map(|p| p.elements).sum::<u64>();
        let types = self.picks.iter().map(|p| p.dtype);
        types.max_by_key(|&t| (elements(t), std::cmp::Reverse(t))).unwrap_or(DType::Q8_0)
    }
}

/// Weights with one type.
struct Group {
    /// Indices of `priced`.
    members: Vec<usize>,
    /// Types that all members have, and the choice that each makes.
    types: Vec<DType>,
    choices: Vec<Choice>,
}

impl Group {
    fn all(source: &Source, priced: &[Priced], fuse: bool, counted: &impl Fn(u64) -> u64) -> Vec<Self> {
        let name = |p: &Priced| source.weights()[p.weight].name.as_str();
        let groups = if fuse {
            fused(priced.iter().map(name).enumerate())
        } else {
            (0..priced.len()).map(|i| vec![i]).collect()
        };
        let mut all = Vec::new();
        for members in groups {
            let group = Self::new(source, priced, members.clone(), counted);
            // Members that --keep or their shapes give different types cannot be fused.
            if group.types.is_empty() {
                all.extend(members.into_iter().map(|i| Self::new(source, priced, vec![i], counted)));
            } else {
                all.push(group);
            }
        }
        all
    }

    fn new(source: &Source, priced: &[Priced], members: Vec<usize>, counted: &impl Fn(u64) -> u64) -> Self {
        let shared = |t: DType| members.iter().all(|&i| priced[i].types.iter().any(|(other, _)| *other == t));
        let first = members.first().map_or(&[][..], |&i| &priced[i].types);
        let types: Vec<DType> = first.iter().map(|(t, _)| *t).filter(|&t| shared(t)).collect();
        let choice = |&t: &DType| {
            let of_member = |&i: &usize| {
                let bytes = source.weights()[priced[i].weight].bytes_as(t).unwrap_or(0);
                Choice { bytes: counted(bytes), cost: cost_of(&priced[i], t) }
            };
            let sum = |a: Choice, b: Choice| Choice { bytes: a.bytes + b.bytes, cost: a.cost + b.cost };
            members.iter().map(of_member).fold(Choice { bytes: 0, cost: 0.0 }, sum)
        };
        let choices = types.iter().map(choice).collect();
        Self { members, types, choices }
    }

    fn picks(&self, source: &Source, priced: &[Priced], dtype: DType) -> Vec<(usize, Pick)> {
        let pick = |&i: &usize| {
            let weight = &source.weights()[priced[i].weight];
            let pick = Pick {
                name: weight.name.clone(),
                dtype,
                bytes: weight.bytes_as(dtype).unwrap_or(0),
                elements: weight.elements(),
                cost: cost_of(&priced[i], dtype),
            };
            (priced[i].weight, pick)
        };
        self.members.iter().map(pick).collect()
    }
}

fn cost_of(priced: &Priced, dtype: DType) -> f64 {
    priced.types.iter().find(|(t, _)| *t == dtype).map_or(f64::INFINITY, |(_, cost)| *cost)
}

fn check_budget(
    source: &Source,
    items: &[Vec<Choice>],
    allowed: u64,
    outside: u64,
    budget: Budget,
) -> Result<(), Error> {
    let sizes = |c: &Vec<Choice>| c.iter().filter(|c| c.cost.is_finite()).map(|c| c.bytes).collect::<Vec<_>>();
    let smallest: u64 = outside + items.iter().map(|c| sizes(c).into_iter().min().unwrap_or(0)).sum::<u64>();
    let largest: u64 = outside + items.iter().map(|c| sizes(c).into_iter().max().unwrap_or(0)).sum::<u64>();
    if allowed < smallest {
        return Err(below(source, items, outside, budget));
    }
    if allowed > largest {
        return Err(Error::AboveLargest {
            budget: shown(source, budget),
            largest: in_unit(source, budget, largest, f64::floor),
        });
    }
    Ok(())
}

fn below(source: &Source, items: &[Vec<Choice>], outside: u64, budget: Budget) -> Error {
    let least = |c: &Vec<Choice>| c.iter().filter(|c| c.cost.is_finite()).map(|c| c.bytes).min().unwrap_or(0);
    let smallest = outside + items.iter().map(least).sum::<u64>();
    Error::BelowSmallest { budget: shown(source, budget), smallest: in_unit(source, budget, smallest, f64::ceil) }
}

fn shown(source: &Source, budget: Budget) -> String {
    match budget {
        Budget::BitsPerWeight(bits) => format!("--bpw {bits}"),
        Budget::FileBytes(bytes) => format!("--size {}", in_unit(source, budget, bytes, f64::ceil)),
    }
}

/// A number of bytes in the budget's unit, rounded so that it can be given as the budget.
fn in_unit(source: &Source, budget: Budget, bytes: u64, round: fn(f64) -> f64) -> String {
    match budget {
        Budget::BitsPerWeight(_) => {
            let bits = bytes as f64 * 8.0 / source.elements().max(1) as f64;
            format!("{:.4} bits per weight", round(bits * 1e4) / 1e4)
        }
        Budget::FileBytes(_) => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_by_bits_per_weight() {
        let mut constraints = Constraints::default();
        constraints.limit(Some(DType::Q3_K), Some(DType::Q4_K));
        assert_eq!(constraints.types, [DType::IQ3_S, DType::Q3_K, DType::IQ4_XS, DType::Q4_K]);
    }
}
