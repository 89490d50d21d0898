//! Merges the shards of one run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Accumulate, ChunkSet, Group, MergeError, Progress, Shard, SharedSums, State};
use crate::exact::{self, ExactEntry};
use crate::imatrix::rows_to_chunks;
use crate::sums::Half;

/// Reads state files and merges them. In any order, the result has the bytes of the state of one run over all their
/// chunks.
///
/// # Errors
/// See [`MergeError`]: f32 sums, different fingerprints, chunks that are in two files or in none.
pub fn merge(paths: &[impl AsRef<Path>]) -> Result<State<'static>, MergeError> {
    let mut merger = Merger::default();
    for path in paths {
        let path = path.as_ref();
        let state = State::load(path).map_err(|source| MergeError::Read { path: path.to_owned(), source })?;
        merger.add(path, state)?;
    }
    merger.finish()
}

/// Merges states one after the other, so that only one is in memory besides the result.
#[derive(Debug, Default)]
pub struct Merger {
    parts: Vec<Part>,
    /// The merged state without its sums.
    whole: Option<State<'static>>,
    /// Index of each weight's sums in `groups`.
    places: BTreeMap<String, usize>,
    groups: Vec<Merged>,
}

/// Sums, and their even half if all states have it.
#[derive(Clone, Debug)]
struct Merged {
    entry: ExactEntry,
    even: Option<Half>,
}

impl Merged {
    fn merge(&mut self, more: &Self) -> Result<(), exact::Error> {
        self.entry.merge(&more.entry)?;
        self.even = self.even.take().zip(more.even.as_ref()).and_then(|(even, more)| even.merged(more));
        Ok(())
    }
}

/// A state that has been merged.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    shard: Shard,
    done: ChunkSet,
}

impl Merger {
    /// Merges a state; `path` is used in messages only.
    ///
    /// # Errors
    /// See [`MergeError`]. The merger must not be used after an error.
    pub fn add(&mut self, path: &Path, state: State<'static>) -> Result<(), MergeError> {
        let refused = |why: &str| Err(MergeError::Rule(format!("{}: {why}", path.display())));
        if state.sums.accumulate() != Accumulate::F64 {
            return refused(
                "its sums are f32, which depend on the order of the chunks; hint: collect shards with --accumulate f64",
            );
        }
        if state.output.base.is_some() {
            return refused("it was started with --in-file; hint: merge those files once, after the shards");
        }
        if state.likelihoods.as_ref().is_some_and(|likelihoods| !likelihoods.are_kept()) {
            return refused("it was not collected as a shard: it lacks the likelihoods for a merged perplexity");
        }
        if let (Some(whole), Some(first)) = (&self.whole, self.parts.first()) {
            check_same(whole, &first.path, &state, path)?;
        }
        let Progress { shard, done, .. } = &state.progress;
        for part in &self.parts {
            let both = part.done.intersection(done);
            if !both.is_empty() {
                let (first, second) = (part.path.display(), path.display());
                return Err(MergeError::Rule(format!("{first} and {second} both hold chunks {both}")));
            }
        }
        self.parts.push(Part { path: path.to_owned(), shard: *shard, done: done.clone() });
        let State { sums, progress, likelihoods, measurements, fingerprint, output, .. } = state;
        if let SharedSums::Exact(groups) = sums {
            for Group { weights, entry, even } in groups {
                let sums = Merged { entry: entry.into_owned(), even: even.map(Cow::into_owned) };
                self.add_group(path, weights, sums)?;
            }
        }
        // The curve of a shard is not that of the run, and no rows are shown to experts without the model.
        let (sums, curve, sample) = (SharedSums::Exact(Vec::new()), Vec::new(), None);
        self.add_rest(State { fingerprint, progress, output, likelihoods, measurements, curve, sample, sums });
        Ok(())
    }

    /// Adds a set of sums and the weights that share it. Shards may differ in which weights share: a weight that a
    /// shard did not use at some time has separate sums there.
    fn add_group(&mut self, path: &Path, weights: Vec<String>, sums: Merged) -> Result<(), MergeError> {
        // Weights that share a place stay together if they also share in this state.
        let mut by_place: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut fresh = Vec::new();
        for weight in weights {
            match self.places.get(&weight) {
                Some(&place) => by_place.entry(place).or_default().push(weight),
                None => fresh.push(weight),
            }
        }
        for (place, weights) in by_place {
            let members = self.places.values().filter(|&&at| at == place).count();
            let failed = |source| MergeError::Sums { path: path.to_owned(), weight: weights[0].clone(), source };
            if members == weights.len() {
                self.groups[place].merge(&sums).map_err(failed)?;
            } else {
                let mut own = self.groups[place].clone();
                own.merge(&sums).map_err(failed)?;
                self.place(weights, own);
            }
        }
        if !fresh.is_empty() {
            self.place(fresh, sums);
        }
        Ok(())
    }

    fn place(&mut self, weights: Vec<String>, sums: Merged) {
        self.groups.push(sums);
        let place = self.groups.len() - 1;
        self.places.extend(weights.into_iter().map(|weight| (weight, place)));
    }

    fn add_rest(&mut self, state: State<'static>) {
        let Some(whole) = &mut self.whole else {
            self.whole = Some(state);
            return;
        };
        whole.progress.done.insert_all(&state.progress.done);
        whole.progress.discarded.insert_all(&state.progress.discarded);
        whole.progress.tokens = whole.progress.tokens.saturating_add(state.progress.tokens);
        if let (Some(likelihoods), Some(more)) = (&mut whole.likelihoods, state.likelihoods) {
            likelihoods.join(more);
        }
        match (&mut whole.measurements, state.measurements) {
            // Chunks measured with other settings stay unmeasured: the sums are the same with and without them.
            (Some(measurements), Some(more)) => {
                measurements.join(more);
            }
            (measurements @ None, more) => *measurements = more,
            (Some(_), None) => {}
        }
    }

    /// Returns the state of the whole run.
    ///
    /// # Errors
    /// [`MergeError::Rule`] if no state was added, or if chunks are missing.
    pub fn finish(self) -> Result<State<'static>, MergeError> {
        let mut whole = self.whole.ok_or_else(|| MergeError::Rule("no state files to merge".to_owned()))?;
        let n_chunks = whole.progress.n_chunks;
        let missing = whole.progress.done.missing_from(0..n_chunks);
        if !missing.is_empty() {
            let shards = which_are_missing(&self.parts);
            return Err(MergeError::Rule(format!("chunks {missing} of {n_chunks} are in none of the files{shards}")));
        }
        let most = self.groups.iter().flat_map(|sums| &sums.entry.counts).max().copied().unwrap_or(0);
        whole.progress.chunk_count = rows_to_chunks(most, whole.output.chunk_size);
        whole.progress.shard = Shard::WHOLE;
        let mut weights: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (weight, place) in self.places {
            weights.entry(place).or_default().push(weight);
        }
        let mut entries: Vec<Option<Merged>> = self.groups.into_iter().map(Some).collect();
        let mut groups: Vec<Group<'static, ExactEntry>> = weights
            .into_iter()
            .filter_map(|(place, weights)| {
                let Merged { entry, even } = entries[place].take()?;
                Some(Group { weights, entry: Cow::Owned(entry), even: even.map(Cow::Owned) })
            })
            .collect();
        groups.sort_by(|a, b| a.weights.cmp(&b.weights));
        whole.sums = SharedSums::Exact(groups);
        Ok(whole)
    }
}

fn check_same(whole: &State<'_>, first: &Path, state: &State<'_>, path: &Path) -> Result<(), MergeError> {
    let (first, path) = (first.display(), path.display());
    let different = |mismatch| MergeError::Rule(format!("{first} and {path} are of different runs: {mismatch}"));
    whole.fingerprint.compare(&state.fingerprint).map_err(different)?;
    let differ = |what: &str, expected: String, found: String| {
        if expected == found {
            return Ok(());
        }
        Err(MergeError::Rule(format!("{first} and {path} differ in {what}: {expected} and {found}")))
    };
    let (one, other) = (&whole.output, &state.output);
    differ("the number of chunks", whole.progress.n_chunks.to_string(), state.progress.n_chunks.to_string())?;
    differ("datasets", format!("{:?}", one.datasets), format!("{:?}", other.datasets))?;
    differ("chunk size", one.chunk_size.to_string(), other.chunk_size.to_string())?;
    differ("NextN layers", one.n_layer_nextn.to_string(), other.n_layer_nextn.to_string())?;
    let perplexity =
        |state: &State<'_>| if state.likelihoods.is_some() { "computed" } else { "not computed" }.to_owned();
    differ("perplexity", perplexity(whole), perplexity(state))
}

/// Names the missing shards, or lists the chunks of each file if no shard is missing.
fn which_are_missing(parts: &[Part]) -> String {
    let Some(count) = parts.first().map(|part| part.shard.count()) else { return String::new() };
    let regular = parts.iter().all(|part| part.shard.count() == count);
    let absent: Vec<String> = (0..count.min(1000))
        .filter(|&index| parts.iter().all(|part| part.shard.index() != index))
        .map(|index| format!("{index}/{count}"))
        .collect();
    if regular && !absent.is_empty() {
        return format!("; there is no state of shard {}", absent.join(", "));
    }
    let have: Vec<String> = parts.iter().map(|part| format!("{} has {}", part.path.display(), part.done)).collect();
    format!("; {}", have.join(", "))
}
