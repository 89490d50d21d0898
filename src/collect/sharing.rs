//! One set of sums for all weights that read the same input.
//!
//! Query, key and value read one tensor; so do gate and up, and the experts' gate and up. Their sums are equal to the
//! bit, so they are kept once and written out per weight. What shares is learned, not assumed: in the evaluation a
//! weight is first seen in, it has sums of its own; those that read the same tensor and have the same bits afterwards
//! share from then on. Should a graph of another shape part them, the one that parts takes its own copy along, of the
//! sums as they were before the addition it has no share in. So the result is that of separate sums in any case.

use std::collections::BTreeMap;

use crate::imatrix::Entry;

use super::product::{Kind, Product};
use super::undo::Undo;

/// What an input is known by within one evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    input: usize,
    ids: usize,
    matrices: [i64; 2],
}

impl Key {
    fn of(product: &Product<'_>) -> Self {
        let [_, _, m2, m3] = product.weight_ne;
        Self { kind: product.kind, input: product.input, ids: product.ids, matrices: [m2, m3] }
    }
}

/// Sums and the weights that share them.
#[derive(Debug, Default)]
pub(super) struct Capture {
    pub(super) entry: Entry,
    /// The state before this evaluation's addition; kept only while shared.
    pub(super) undo: Undo,
    members: usize,
    /// The input added in this evaluation, if the capture was shared then: that takes one an evaluation.
    added: Option<Key>,
}

impl Capture {
    pub(super) fn is_shared(&self) -> bool {
        self.members > 1
    }
}

/// Which sums a weight takes along when it parts: as they are, or as they were before this evaluation's addition.
#[derive(Debug, Clone, Copy)]
enum Sums {
    Now,
    Before,
}

#[derive(Debug)]
struct Weight {
    capture: usize,
    /// Whether an evaluation has shown it; a weight that was loaded from a file may not have been.
    seen: bool,
    /// Times used in this evaluation, and the input of the first.
    uses: u32,
    first: Option<Key>,
}

/// All captures and who shares them.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    captures: Vec<Capture>,
    weights: BTreeMap<String, Weight>,
    /// Weights first seen in this evaluation.
    fresh: Vec<String>,
}

impl Sharing {
    /// Starts `weight` from sums collected earlier.
    pub(super) fn load(&mut self, weight: String, entry: Entry) {
        let capture = self.add_capture(entry);
        self.weights.insert(weight, Weight { capture, seen: false, uses: 0, first: None });
    }

    fn add_capture(&mut self, entry: Entry) -> usize {
        self.captures.push(Capture { entry, members: 1, ..Capture::default() });
        self.captures.len() - 1
    }

    /// Whether the input of `product` has to be added: not where another weight's product has brought it in already.
    pub(super) fn asks(&mut self, product: &Product<'_>) -> bool {
        let key = Key::of(product);
        if !self.weights.contains_key(product.weight) {
            self.load(product.weight.to_owned(), Entry::default());
        }
        let Some(weight) = self.weights.get_mut(product.weight) else { return true };
        if !weight.seen {
            weight.seen = true;
            self.fresh.push(product.weight.to_owned());
        }
        weight.first.get_or_insert(key);
        let earlier_uses = weight.uses;
        weight.uses += 1;

        let capture = &mut self.captures[weight.capture];
        match (earlier_uses, capture.added) {
            // This also holds for the last of those that shared, once the one that brought the input in has parted.
            (0, Some(added)) if added == key => return false,
            (0, Some(_)) => self.part(product.weight, Sums::Before),
            (0, None) if capture.is_shared() => capture.added = Some(key),
            (1.., _) if capture.is_shared() => self.part(product.weight, Sums::Now),
            _ => {}
        }
        true
    }

    /// Gives `weight` sums of its own.
    fn part(&mut self, weight: &str, sums: Sums) {
        let Some(index) = self.weights.get(weight).map(|weight| weight.capture) else { return };
        let capture = &mut self.captures[index];
        let entry = match sums {
            Sums::Now => capture.entry.clone(),
            Sums::Before => capture.undo.before(&capture.entry),
        };
        capture.members -= 1;
        if capture.members == 0 {
            *capture = Capture::default(); // frees the sums; the place stays
        }
        let own = self.add_capture(entry);
        if let Some(weight) = self.weights.get_mut(weight) {
            weight.capture = own;
        }
    }

    /// The capture of `weight`, once [`asks`](Self::asks) has said it is to be added to.
    pub(super) fn capture_mut(&mut self, weight: &str) -> Option<&mut Capture> {
        let weight = self.weights.get(weight)?;
        self.captures.get_mut(weight.capture)
    }

    /// Closes an evaluation: who missed an addition parts, who was first seen and reads the same as another joins it.
    pub(super) fn end_evaluation(&mut self) {
        let missed: Vec<String> = self
            .weights
            .iter()
            .filter(|(_, w)| w.uses == 0 && self.captures[w.capture].added.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in &missed {
            self.part(name, Sums::Before);
        }
        self.join_fresh();
        for weight in self.weights.values_mut() {
            weight.uses = 0;
            weight.first = None;
        }
        for capture in &mut self.captures {
            capture.added = None;
        }
    }

    fn join_fresh(&mut self) {
        let mut leaders: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for name in std::mem::take(&mut self.fresh) {
            let Some(weight) = self.weights.get_mut(&name) else { continue };
            let (Some(key), 1) = (weight.first, weight.uses) else { continue };
            let leaders = leaders.entry(key).or_default();
            let own = weight.capture;
            match leaders.iter().find(|&&leader| same_bits(&self.captures[leader].entry, &self.captures[own].entry)) {
                None => leaders.push(own),
                Some(&leader) => {
                    weight.capture = leader;
                    self.captures[leader].members += 1;
                    self.captures[own] = Capture::default(); // frees the sums; the place stays
                }
            }
        }
    }

    /// Every weight with its sums, by name. Weights of which nothing came in are left out.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.weights
            .iter()
            .map(|(name, weight)| (name.as_str(), &self.captures[weight.capture].entry))
            .filter(|(_, entry)| !entry.sum2.is_empty())
    }

    /// Sets of sums in use.
    #[cfg(test)]
    pub(super) fn n_captures(&self) -> usize {
        self.captures.iter().filter(|capture| capture.members > 0).count()
    }
}

fn same_bits(a: &Entry, b: &Entry) -> bool {
    let same = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    a.counts == b.counts
        && same(&a.sum2, &b.sum2)
        && match (&a.sum, &b.sum) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        }
}
