//! Chunks through a model as the tool we replace has them: whole batches, every logit, one context.

use std::collections::BTreeMap;
use std::rc::Rc;

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::llama::{Batch, Context, ContextOptions, FlashAttention, Model, NextnContext, Outputs, Tuning};
use llama_imatrix::nextn::Layer;

use super::cases::Setup;
use super::naive::{Naive, Shared, Sums};

/// Documents that share a batch at most.
const MOST_DOCUMENTS: usize = 64;

pub(super) struct Collected {
    pub(super) entries: BTreeMap<String, Sums>,
    /// Whether the exact sums count.
    pub(super) exact: bool,
    pub(super) chunk_count: i32,
    /// Chunks left out since a sum would not be finite.
    pub(super) skipped: Vec<usize>,
}

/// Sequences of tokens that share a batch.
type Group = Vec<Vec<i32>>;

pub(super) fn collect(model: &Model, layer: Option<Layer<'_>>, setup: &Setup, earlier: &Imatrix) -> Collected {
    let groups = if setup.documents { document_groups(model, setup) } else { chunk_groups(model, setup) };
    let naive = Naive::new(setup, earlier);
    let sums = Rc::clone(&naive.sums);
    let options = options(setup, &groups);
    let mut evaluation = Evaluation::new(model, layer, setup, &options, naive);
    let mut skipped = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let before = (setup.max_bad_chunks > 0).then(|| sums.borrow().clone());
        evaluation.evaluate(group, options.n_batch as usize / group.len());
        let bad = |sums: &Sums| sums.sum2.iter().any(|x| !x.is_finite());
        if let Some(before) = before.filter(|_| sums.borrow().values().any(bad)) {
            *sums.borrow_mut() = before;
            skipped.push(i);
        }
    }
    drop(evaluation);
    let entries = sums.take();
    let size = setup.size as i64;
    let chunks = |sums: &Sums| sums.counts.iter().map(|rows| (rows + size / 2) / size).max().unwrap_or(0);
    let earlier = i64::from(earlier.chunk_count);
    let chunk_count = entries.values().map(chunks).max().unwrap_or(0).max(earlier) as i32;
    Collected { entries, exact: setup.exact, chunk_count, skipped }
}

fn chunk_groups(model: &Model, setup: &Setup) -> Vec<Group> {
    let vocab = model.vocab();
    let tokens = vocab.tokenize(super::text().as_bytes(), false).unwrap();
    let bos = vocab.leading_bos();
    let n_seq = (setup.n_batch / setup.size).max(1);
    let mut chunks: Vec<_> = tokens.chunks(setup.size).map(<[i32]>::to_vec).collect();
    if !setup.keep_tail && chunks.last().is_some_and(|last| last.len() < setup.size) {
        chunks.pop();
    }
    let mut chunks: Vec<_> = chunks.into_iter().skip(setup.skip).take(setup.limit.unwrap_or(usize::MAX)).collect();
    for chunk in &mut chunks {
        chunk[0] = bos.unwrap_or(chunk[0]);
    }
    let tail = (chunks.last().unwrap().len() < setup.size).then(|| chunks.pop().unwrap());
    let mut groups: Vec<Group> = chunks.chunks(n_seq).map(<[_]>::to_vec).collect();
    groups.extend(tail.map(|tail| vec![tail]));
    if let Some(part) = &setup.part {
        assert_eq!(n_seq, 1);
        groups = groups[part.clone()].to_vec();
    }
    groups
}

fn document_groups(model: &Model, setup: &Setup) -> Vec<Group> {
    let alone = model.is_recurrent();
    let texts = documents().into_iter().map(|text| model.vocab().tokenize(text.as_bytes(), false).unwrap());
    let chunks = texts.flat_map(|tokens| tokens.chunks(setup.size).map(<[i32]>::to_vec).collect::<Vec<_>>());
    let room = setup.size.max(setup.n_batch.min(setup.n_ubatch));
    let mut groups: Vec<Group> = Vec::new();
    for chunk in chunks.skip(setup.skip).take(setup.limit.unwrap_or(usize::MAX)) {
        let fits = |group: &&mut Group| {
            let tokens: usize = group.iter().map(Vec::len).sum();
            !alone && group.len() < MOST_DOCUMENTS && tokens + chunk.len() <= room
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.push(chunk),
            None => groups.push(vec![chunk]),
        }
    }
    groups
}

/// Texts of unequal length: shorter than a chunk, longer, and a few tokens.
pub(super) fn documents() -> Vec<String> {
    [9, 40, 3, 150, 25, 60, 12, 1, 33]
        .iter()
        .zip(50..)
        .map(|(&words, seed)| crate::support::text(words, seed))
        .collect()
}

fn options(setup: &Setup, groups: &[Group]) -> ContextOptions {
    let tokens = |group: &Group| group.iter().map(Vec::len).sum::<usize>();
    let most = groups.iter().map(tokens).max().unwrap();
    let n_seq = groups.iter().map(Vec::len).max().unwrap();
    let n_seq = if setup.documents { n_seq } else { (setup.n_batch / setup.size).max(1) };
    let n_ctx = if setup.documents { most } else { n_seq * setup.size };
    ContextOptions {
        n_ctx: n_ctx as u32,
        n_batch: if setup.documents { n_ctx } else { setup.n_batch.min(n_ctx) } as u32,
        n_ubatch: setup.n_ubatch as u32,
        n_seq: n_seq as u32,
        n_threads: 1,
        n_threads_batch: 1,
        flash_attention: match setup.flash_attention {
            None => FlashAttention::Auto,
            Some(true) => FlashAttention::On,
            Some(false) => FlashAttention::Off,
        },
        outputs: Outputs::All,
        tuning: Tuning { unified_cache: setup.documents, ..Tuning::default() },
    }
}

struct Evaluation<'m> {
    trunk: Context<'m, Naive>,
    nextn: Option<NextnContext<'m, Naive>>,
    /// The trunk's hidden state of the last token: the layer takes it with the next one.
    pending: Vec<f32>,
    has_memory: bool,
}

impl<'m> Evaluation<'m> {
    fn new(model: &'m Model, layer: Option<Layer<'m>>, setup: &Setup, options: &ContextOptions, naive: Naive) -> Self {
        let sums: Shared = Rc::clone(&naive.sums);
        let mut trunk = Context::new(model, options, naive).unwrap();
        let has_memory = trunk.has_memory();
        if !has_memory {
            // Attention sees one decode at a time: a chunk must not be split.
            let options = ContextOptions { n_batch: options.n_ctx, ..options.clone() };
            trunk = Context::new(model, &options, trunk.into_observer()).unwrap();
        }
        let nextn = layer.map(|layer| {
            trunk.keep_nextn_states().unwrap();
            NextnContext::new(layer.model, options, Naive::onto(setup, &sums), layer.own_head).unwrap()
        });
        Self { trunk, nextn, pending: Vec::new(), has_memory }
    }

    /// Evaluates sequences side by side, `at_once` tokens of each per decode.
    fn evaluate(&mut self, group: &Group, at_once: usize) {
        self.trunk.clear_memory();
        self.pending.clear();
        if let Some(nextn) = &mut self.nextn {
            nextn.clear();
        }
        let longest = group.iter().map(Vec::len).max().unwrap();
        let even = group.iter().all(|sequence| sequence.len() == longest);
        // Sequences of unequal length fit into one decode.
        let at_once = if self.has_memory && even { at_once.max(1) } else { longest };
        for from in (0..longest).step_by(at_once) {
            let mut batch = Batch::new();
            for (sequence, tokens) in group.iter().enumerate() {
                for (position, &token) in tokens.iter().enumerate().skip(from).take(at_once) {
                    batch.add(token, position as i32, sequence as i32);
                }
            }
            self.trunk.decode(&mut batch).unwrap();
            self.follow(&batch);
        }
    }

    fn follow(&mut self, batch: &Batch) {
        let Some(nextn) = &mut self.nextn else { return };
        for (row, (token, position)) in batch.tokens().enumerate() {
            if row > 0 {
                nextn.push(token, position, self.trunk.nextn_state(row - 1).unwrap()).unwrap();
            } else if !self.pending.is_empty() {
                nextn.push(token, position, &self.pending).unwrap();
            }
        }
        self.pending = self.trunk.nextn_state(batch.len() - 1).unwrap().to_vec();
        if !nextn.is_empty() {
            nextn.decode().unwrap();
        }
    }
}
