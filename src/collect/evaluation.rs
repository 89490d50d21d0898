//! The current batch and graph evaluation of a lane.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::accumulate::{Scratch, add_dense, add_routed, prepare_on_device};
use super::error::Error;
use super::pending::{BATCHES_AWAY, Pending};
use super::product::{Ids, Kind, Product, Rows};
use super::rule::Verdict;
use super::sharing::{CaptureSums, Same, Take};
use super::state::{Shared, State};
use super::sync::MutexGuard;
use crate::sums::OnDevice;

/// Identifies an input within one evaluation.
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

/// Uses of a weight by products.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    /// Number of uses in this evaluation.
    evaluation: u32,
    /// Input of the first of them.
    first: Option<Key>,
    /// Number of uses in this batch whose input has been added.
    batch: usize,
}

/// The current evaluation of a lane. Decides which inputs are needed and adds them to the sums.
#[derive(Debug)]
pub(super) struct Evaluation {
    pub(super) shared: Arc<Shared>,
    batch: usize,
    /// Number of the batch in the text, which decides its half.
    number: usize,
    /// Uses of each weight, by index.
    uses: Vec<Uses>,
    /// Input that this evaluation adds to each capture, if several weights share the capture: it takes one input per
    /// evaluation.
    added: Vec<Option<Key>>,
    /// Weights that no earlier evaluation has used.
    fresh: Vec<usize>,
    /// The weight that was last asked for, and its capture at that time.
    asked: Option<(usize, usize)>,
    /// First node of this evaluation. When it is announced again, the next evaluation of the same decode begins.
    first_node: Option<usize>,
    /// An error from a call that cannot return it; a later call does.
    fault: Option<Error>,
    scratch: Scratch,
}

/// An addition to the sums of a capture; it is this lane's turn.
struct Addition<'a> {
    sums: &'a mut CaptureSums,
    scratch: &'a mut Scratch,
    /// True if several weights share the sums.
    is_shared: bool,
    batch: usize,
}

impl Evaluation {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            batch: 0,
            number: 0,
            uses: Vec::new(),
            added: Vec::new(),
            fresh: Vec::new(),
            asked: None,
            first_node: None,
            fault: None,
            scratch: Scratch::default(),
        }
    }

    /// Begins a batch. The last evaluation must have ended.
    pub(super) fn begin_batch(&mut self, batch: usize, number: usize) {
        self.batch = batch;
        self.number = number;
        self.shared.lock().begin_batch(batch);
        self.uses.iter_mut().for_each(|uses| uses.batch = 0);
    }

    /// Ends the batch. The last evaluation must have ended.
    pub(super) fn end_batch(&mut self) {
        let mut state = self.shared.lock();
        if self.batch == 0 {
            state.sharing.count_first_batch(self.uses.iter().map(|uses| uses.batch));
        }
        state.end_batch(self.batch);
        drop(state);
        self.shared.notify();
    }

    /// Returns the error of an earlier call that could not return it.
    pub(super) fn take_fault(&mut self) -> Result<(), Error> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Announces node `id`. If it is the first node of this evaluation, the next evaluation begins. `same` compares
    /// sums on devices.
    pub(super) fn begin_node(&mut self, id: usize, same: Same<'_>) {
        if self.first_node == Some(id) {
            self.end_evaluation(same);
        }
        self.first_node.get_or_insert(id);
    }

    /// Returns true if the input of `product` is needed; see [`Lane::asks`](super::Lane::asks).
    pub(super) fn asks(&mut self, product: &Product<'_>) -> bool {
        let verdict = self.shared.options.rule.judge(product);
        if verdict == Verdict::PassedOver {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if verdict == Verdict::TooFewRows {
            state.too_few_rows += 1;
            return false;
        }
        match self.asks_for(&shared, state, product) {
            Ok(answer) => answer,
            Err(error) => {
                self.fault.get_or_insert(error);
                true // add() returns it
            }
        }
    }

    fn asks_for<'s>(
        &mut self,
        shared: &'s Shared,
        mut state: MutexGuard<'s, State>,
        product: &Product<'_>,
    ) -> Result<bool, Error> {
        let key = Key::of(product);
        let (weight, fresh) = state.sharing.show(product.weight);
        if fresh {
            self.fresh.push(weight);
        }
        grow(&mut self.uses, weight);
        let uses = &mut self.uses[weight];
        uses.first.get_or_insert(key);
        uses.evaluation += 1;
        let capture = state.sharing.capture_of(weight);
        grow(&mut self.added, capture);
        match (uses.evaluation, self.added[capture]) {
            // Also holds if the weight that added the input has parted since and the capture is no longer shared.
            (1, Some(added)) if added == key => {
                uses.batch += 1;
                if state.sharing.pass(capture) {
                    shared.notify();
                }
                return Ok(false);
            }
            (1, Some(_)) => state = self.part(shared, state, weight, Take::Before)?,
            (1, None) if state.sharing.is_shared(capture) => self.added[capture] = Some(key),
            (2.., _) if state.sharing.is_shared(capture) => state = self.part(shared, state, weight, Take::Now)?,
            _ => {}
        }
        self.asked = Some((weight, state.sharing.capture_of(weight)));
        Ok(true)
    }

    fn part<'s>(
        &self,
        shared: &'s Shared,
        state: MutexGuard<'s, State>,
        weight: usize,
        take: Take,
    ) -> Result<MutexGuard<'s, State>, Error> {
        let mut state = shared.wait_for_turn(state, weight, self.batch)?;
        if matches!(take, Take::Before) && state.sharing.is_away(weight) {
            return Err(Error::Parted { weight: state.sharing.name(weight).to_owned() });
        }
        let seen = self.uses.get(weight).map_or(0, |uses| uses.batch);
        if state.sharing.part(weight, take, seen) {
            shared.notify();
        }
        Ok(state)
    }

    /// Adds the input of the product that was last asked for; see [`Lane::add`](super::Lane::add).
    pub(super) fn add(&mut self, product: &Product<'_>, input: &Rows<'_>, ids: Option<&Ids<'_>>) -> Result<(), Error> {
        let even = self.number.is_multiple_of(2);
        self.change(|Addition { sums, scratch, is_shared, .. }| {
            sums.turn_to(even);
            // While `before` refers to the sums, `Arc::make_mut` changes a copy.
            sums.before = is_shared.then(|| Arc::clone(&sums.entry));
            let entry = Arc::make_mut(&mut sums.entry);
            match ids {
                Some(ids) => add_routed(entry, product, input, ids, scratch),
                None => add_dense(entry, product, input, scratch),
            }
        })
    }

    /// Adds the input on its device. `sum` takes the sums there, if any, and returns them with the input added.
    #[cfg_attr(not(any(test, feature = "llama")), expect(dead_code, reason = "devices come with llama.cpp"))]
    pub(super) fn add_on_device(
        &mut self,
        product: &Product<'_>,
        sum: impl FnOnce(Option<Box<dyn OnDevice>>) -> Result<Box<dyn OnDevice>, Error>,
    ) -> Result<(), Error> {
        // Halves of whole intervals, after which the sums are transferred anyway.
        let even = (self.number / BATCHES_AWAY).is_multiple_of(2);
        self.change(|Addition { sums, batch, .. }| {
            sums.bring_home(batch);
            sums.turn_to(even);
            prepare_on_device(Arc::make_mut(&mut sums.entry), product)?;
            let sums_there = sum(sums.pending.take().map(|pending| pending.sums))?;
            sums.pending = Some(Pending { sums: sums_there, batch, empty: false });
            Ok(())
        })
    }

    /// Waits for this batch's turn, then calls `add` with the sums of the weight that was last asked for.
    fn change(&mut self, add: impl FnOnce(Addition<'_>) -> Result<(), Error>) -> Result<(), Error> {
        self.take_fault()?;
        let Some((weight, asked)) = self.asked.take() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let _stop = shared.stop_on_panic();
        let mut state = shared.wait_for_turn(shared.lock(), weight, self.batch)?;
        let keep = state.keep_after.is_some_and(|after| self.batch > after);
        let (capture, mut sums) = state.sharing.take(weight, keep);
        if capture != asked {
            // The weight parted in another lane's batch: the capture that it left has not received this input.
            self.added[asked] = None;
        }
        let is_shared = state.sharing.is_shared(capture);
        drop(state);
        let (sums_here, scratch) = (&mut sums, &mut self.scratch);
        let result = add(Addition { sums: sums_here, scratch, is_shared, batch: self.batch });

        let mut state = shared.lock();
        state.sharing.put(capture, sums);
        if result.is_err() {
            drop(state);
            shared.stop();
            return result;
        }
        state.saw(capture, self.batch);
        self.uses[weight].batch += 1;
        if state.sharing.pass(capture) {
            shared.notify();
        }
        Ok(())
    }

    /// Ends the evaluation if one has begun. `same` compares sums on devices.
    pub(super) fn end_evaluation(&mut self, same: Same<'_>) {
        if self.first_node.take().is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        if let Err(error) = self.close(&shared, same) {
            self.fault.get_or_insert(error);
        }
        for uses in &mut self.uses {
            uses.evaluation = 0;
            uses.first = None;
        }
        self.added.fill(None);
        self.fresh.clear();
    }

    /// Separates weights that did not read an input added to their capture. Then lets weights that are used for the
    /// first time share a capture if they read the same input.
    fn close(&mut self, shared: &Shared, same: Same<'_>) -> Result<(), Error> {
        let mut state = shared.lock();
        for weight in 0..state.sharing.n_weights() {
            let came_up = self.uses.get(weight).is_some_and(|uses| uses.evaluation > 0);
            let capture = state.sharing.capture_of(weight);
            if !came_up && self.added.get(capture).copied().flatten().is_some() {
                state = self.part(shared, state, weight, Take::Before)?;
            }
        }
        let mut leaders: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for &weight in &self.fresh {
            let Uses { first: Some(key), evaluation: 1, .. } = self.uses[weight] else { continue };
            let leaders = leaders.entry(key).or_default();
            if !leaders.iter().any(|&leader| state.sharing.join(weight, leader, same)) {
                leaders.push(weight);
            }
        }
        Ok(())
    }
}

fn grow<T: Clone + Default>(list: &mut Vec<T>, index: usize) {
    if list.len() <= index {
        list.resize(index + 1, T::default());
    }
}
