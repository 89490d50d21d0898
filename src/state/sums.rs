//! The sums of a state, each set stored once for all weights that share it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Accumulate, Error};
use crate::exact::ExactEntry;
use crate::imatrix::Entry;
use crate::sums::Half;

/// One set of sums and the weights it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Group<'a, E: Clone> {
    /// The weights, sorted; at least one.
    pub weights: Vec<String>,
    /// Their sums.
    pub entry: Cow<'a, E>,
    /// The part of `entry` that is of the even half of the batches; `None` if it was not kept.
    pub even: Option<Cow<'a, Half>>,
}

/// All sums, sorted by the names of the weights.
#[derive(Clone, Debug, PartialEq)]
pub enum SharedSums<'a> {
    /// f32 sums, as in llama.cpp's tool: they depend on the order of the chunks.
    F32(Vec<Group<'a, Entry>>),
    /// Exact sums: they do not depend on the order of the chunks.
    Exact(Vec<Group<'a, ExactEntry>>),
}

/// A weight, its sums and their even half.
type WithHalf<'n, 'a, E> = (&'n str, &'a E, Option<&'a Half>);

impl<'a> SharedSums<'a> {
    /// Borrows f32 sums. Weights with the same reference share a set.
    pub fn f32<'n>(entries: impl IntoIterator<Item = (&'n str, &'a Entry)>) -> Self {
        Self::F32(group(entries.into_iter().map(|(weight, entry)| (weight, entry, None))))
    }

    /// Borrows exact sums. Weights with the same reference share a set.
    pub fn exact<'n>(entries: impl IntoIterator<Item = (&'n str, &'a ExactEntry)>) -> Self {
        Self::Exact(group(entries.into_iter().map(|(weight, entry)| (weight, entry, None))))
    }

    /// Borrows f32 sums and their even halves.
    pub(super) fn f32_halves<'n>(entries: impl IntoIterator<Item = WithHalf<'n, 'a, Entry>>) -> Self {
        Self::F32(group(entries))
    }

    /// Borrows exact sums and their even halves.
    pub(super) fn exact_halves<'n>(entries: impl IntoIterator<Item = WithHalf<'n, 'a, ExactEntry>>) -> Self {
        Self::Exact(group(entries))
    }

    /// Returns the even half of every weight; `None` if one is not known.
    pub(super) fn halves(&self) -> Option<BTreeMap<&str, &Half>> {
        fn of<'s, E: Clone>(groups: &'s [Group<'_, E>]) -> Option<BTreeMap<&'s str, &'s Half>> {
            let mut halves = BTreeMap::new();
            for group in groups {
                let even = group.even.as_deref()?;
                halves.extend(group.weights.iter().map(|weight| (weight.as_str(), even)));
            }
            Some(halves)
        }
        match self {
            Self::F32(groups) => of(groups),
            Self::Exact(groups) => of(groups),
        }
    }

    /// Returns the kind of the sums.
    #[must_use]
    pub(crate) const fn accumulate(&self) -> Accumulate {
        match self {
            SharedSums::F32(_) => Accumulate::F32,
            SharedSums::Exact(_) => Accumulate::F64,
        }
    }

    /// Returns the entry of every weight; exact sums are rounded.
    #[must_use]
    pub(crate) fn entries(&self) -> BTreeMap<String, Entry> {
        match self {
            SharedSums::F32(groups) => spread(groups, Clone::clone),
            SharedSums::Exact(groups) => spread(groups, ExactEntry::round),
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let counts = |weight: &str, counts: &[i64]| match counts.iter().find(|&&count| count < 0) {
            Some(&found) => Err(Error::Count { weight: weight.to_owned(), found }),
            None => Ok(()),
        };
        let half = |weight: &str, even: Option<&Half>, values: usize, counts: &[i64]| match even {
            Some(even) if !even.fits(values, counts) => Err(Error::Half(weight.to_owned())),
            _ => Ok(()),
        };
        match self {
            SharedSums::F32(groups) => check(groups, |weight, entry, even| {
                entry.check(weight).map_err(Error::Entry)?;
                counts(weight, &entry.counts)?;
                half(weight, even, entry.sum2.len(), &entry.counts)
            }),
            SharedSums::Exact(groups) => check(groups, |weight, entry, even| {
                let exact = |source| Error::Exact { weight: weight.to_owned(), source };
                entry.check().map_err(exact)?;
                if !entry.counts.is_empty() && entry.len() % entry.counts.len() != 0 {
                    let (values, counts) = (entry.len(), entry.counts.len());
                    let name = weight.to_owned();
                    return Err(Error::Entry(crate::imatrix::Error::Matrices { name, values, counts }));
                }
                counts(weight, &entry.counts)?;
                half(weight, even, entry.len(), &entry.counts)
            }),
        }
    }
}

fn group<'a, 'n, E: Clone>(entries: impl IntoIterator<Item = WithHalf<'n, 'a, E>>) -> Vec<Group<'a, E>> {
    // Grouped by address, then sorted by name, so that no address affects the order.
    type Shared<'n, 'a, E> = (&'a E, Option<&'a Half>, BTreeSet<&'n str>);
    let mut shared: BTreeMap<(*const E, Option<*const Half>), Shared<'n, 'a, E>> = BTreeMap::new();
    for (weight, entry, even) in entries {
        let place = (std::ptr::from_ref(entry), even.map(std::ptr::from_ref));
        shared.entry(place).or_insert((entry, even, BTreeSet::new())).2.insert(weight);
    }
    let mut groups: Vec<Group<'a, E>> = shared
        .into_values()
        .map(|(entry, even, weights)| Group {
            weights: weights.into_iter().map(str::to_owned).collect(),
            entry: Cow::Borrowed(entry),
            even: even.map(Cow::Borrowed),
        })
        .collect();
    groups.sort_by(|a, b| a.weights.cmp(&b.weights));
    groups
}

fn spread<E: Clone>(groups: &[Group<'_, E>], to_entry: impl Fn(&E) -> Entry) -> BTreeMap<String, Entry> {
    let mut out = BTreeMap::new();
    for group in groups {
        let entry = to_entry(&group.entry);
        for weight in group.weights.iter().skip(1) {
            out.insert(weight.clone(), entry.clone());
        }
        if let Some(first) = group.weights.first() {
            out.insert(first.clone(), entry);
        }
    }
    out
}

fn check<E: Clone>(
    groups: &[Group<'_, E>],
    check_entry: impl Fn(&str, &E, Option<&Half>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for (i, group) in groups.iter().enumerate() {
        let first = group.weights.first().ok_or(Error::NoWeight(i))?;
        if let Some(twice) = group.weights.iter().find(|weight| !seen.insert(weight.as_str())) {
            return Err(Error::DuplicateWeight(twice.clone()));
        }
        check_entry(first, &group.entry, group.even.as_deref())?;
    }
    Ok(())
}
