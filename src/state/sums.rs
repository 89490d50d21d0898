//! The sums of a state, each set stored once for all weights that share it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Accumulate, Error};
use crate::exact::ExactEntry;
use crate::imatrix::Entry;

/// One set of sums and the weights it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Group<'a, E: Clone> {
    /// The weights, sorted; at least one.
    pub weights: Vec<String>,
    /// Their sums.
    pub entry: Cow<'a, E>,
}

/// All sums, sorted by the names of the weights.
#[derive(Clone, Debug, PartialEq)]
pub enum SharedSums<'a> {
    /// f32 sums, as in llama.cpp's tool: they depend on the order of the chunks.
    F32(Vec<Group<'a, Entry>>),
    /// Exact sums: they do not depend on the order of the chunks.
    Exact(Vec<Group<'a, ExactEntry>>),
}

impl<'a> SharedSums<'a> {
    /// Borrows f32 sums. Weights with the same reference share a set.
    pub fn f32<'n>(entries: impl IntoIterator<Item = (&'n str, &'a Entry)>) -> Self {
        Self::F32(group(entries))
    }

    /// Borrows exact sums. Weights with the same reference share a set.
    pub fn exact<'n>(entries: impl IntoIterator<Item = (&'n str, &'a ExactEntry)>) -> Self {
        Self::Exact(group(entries))
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
        match self {
            SharedSums::F32(groups) => check(groups, |weight, entry| {
                entry.check(weight).map_err(Error::Entry)?;
                counts(weight, &entry.counts)
            }),
            SharedSums::Exact(groups) => check(groups, |weight, entry| {
                let exact = |source| Error::Exact { weight: weight.to_owned(), source };
                entry.check().map_err(exact)?;
                if !entry.counts.is_empty() && entry.len() % entry.counts.len() != 0 {
                    let (values, counts) = (entry.len(), entry.counts.len());
                    let name = weight.to_owned();
                    return Err(Error::Entry(crate::imatrix::Error::Matrices { name, values, counts }));
                }
                counts(weight, &entry.counts)
            }),
        }
    }
}

fn group<'a, 'n, E: Clone>(entries: impl IntoIterator<Item = (&'n str, &'a E)>) -> Vec<Group<'a, E>> {
    // Grouped by address, then sorted by name, so that no address affects the order.
    let mut shared: BTreeMap<*const E, (&'a E, BTreeSet<&'n str>)> = BTreeMap::new();
    for (weight, entry) in entries {
        shared.entry(std::ptr::from_ref(entry)).or_insert((entry, BTreeSet::new())).1.insert(weight);
    }
    let mut groups: Vec<Group<'a, E>> = shared
        .into_values()
        .map(|(entry, weights)| Group {
            weights: weights.into_iter().map(str::to_owned).collect(),
            entry: Cow::Borrowed(entry),
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

fn check<E: Clone>(groups: &[Group<'_, E>], check_entry: impl Fn(&str, &E) -> Result<(), Error>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for (i, group) in groups.iter().enumerate() {
        let first = group.weights.first().ok_or(Error::NoWeight(i))?;
        if let Some(twice) = group.weights.iter().find(|weight| !seen.insert(weight.as_str())) {
            return Err(Error::DuplicateWeight(twice.clone()));
        }
        check_entry(first, &group.entry)?;
    }
    Ok(())
}
