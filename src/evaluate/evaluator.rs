//! Evaluates batches of chunks in a separate context per lane.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::calibration::Chunks;
use crate::collect;
use crate::collect::collector::Collector;
use crate::lens::{ChunkFindings, LensProbe, SamplePoint, positions};
use crate::llama::{self, Batch, Context, Model, Timings};
use crate::nextn::Layer;
use crate::shown::{ROWS, RowSample, SampledLayer};

use super::documents::Rows;
use super::nextn::Follower;
use super::read_ahead::Reader;
use super::watcher::Watcher;
use super::{Error, Layout, RunOptions};

/// Evaluates the batches of one lane.
pub(super) struct Evaluator<'a> {
    context: Context<'a, Watcher>,
    nextn: Option<Follower<'a>>,
    chunks: &'a Chunks,
    batch: Batch,
    /// Maximum number of tokens per decode.
    n_batch: usize,
    /// Maximum number of tokens per micro-batch.
    n_ubatch: usize,
    bos: Option<i32>,
    perplexity: bool,
    probe: Option<LensProbe<'a>>,
    /// See [`RunOptions::read_ahead`].
    reader: Option<Reader>,
    /// Layers whose experts' rows are sampled.
    sampled: Option<Arc<[SampledLayer]>>,
    /// Tokens above this bound are not sampled.
    bound: Arc<AtomicU64>,
    /// Chunk and position of the tokens whose rows the decode copies.
    sampled_tokens: Vec<(usize, usize)>,
    /// See [`RunOptions::tokens_done`].
    tokens_done: Arc<AtomicU64>,
}

/// Results of a batch.
#[derive(Debug, Default)]
pub(super) struct Evaluated {
    /// Negative log-likelihoods of each chunk; empty if perplexity is not computed.
    pub(super) nlls: Vec<Vec<f64>>,
    /// Measurements of the layers, by chunk.
    pub(super) findings: BTreeMap<usize, ChunkFindings>,
    /// Sampled rows of experts.
    pub(super) sample: RowSample,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        model: &'a Model,
        nextn: Option<&Layer<'a>>,
        chunks: &'a Chunks,
        layout: &Layout,
        collector: &Collector,
        options: &RunOptions,
    ) -> Result<Self, Error> {
        if model.is_encoder_decoder() {
            return Err(Error::Refused(
                "encoder-decoder models are not supported: a calibration text has no target for the decoder".to_owned(),
            ));
        }
        let longest = i32::try_from(chunks.size()).unwrap_or(i32::MAX);
        if let Some(limit) = model.learned_positions().filter(|&limit| longest > limit) {
            return Err(llama::Error::Position { found: longest - 1, limit }.into());
        }
        let mut context_options = options.context(chunks, layout, nextn.is_some());
        let mut n_batch = context_options.n_batch as usize;
        let n_ubatch = options.n_ubatch.min(n_batch);
        let mut context = Context::new(model, &context_options, Watcher::new(collector.lane()))?;
        let seen_at_once = if chunks.are_documents() { layout.n_ctx } else { chunks.size() };
        if !context.has_memory() && n_batch < seen_at_once {
            // A model without memory must see the whole chunk in one decode.
            n_batch = seen_at_once;
            context_options.n_batch = n_batch as u32;
            context = Context::new(model, &context_options, context.into_observer())?;
        }
        let nextn =
            nextn.map(|layer| Follower::new(layer, &context_options, &mut context)).transpose().map_err(|error| {
                Error::Refused(format!(
                    "failed to create the NextN context: {error}; hint: llama.cpp evaluates the NextN layers of some \
                     architectures only"
                ))
            })?;
        // Models without memory are encoders, which compute no logits, and diffusion models.
        let has_logits = context.has_memory() || model.is_diffusion();
        Ok(Self {
            context,
            nextn,
            chunks,
            batch: Batch::new(),
            n_batch,
            n_ubatch,
            bos: model.vocab().leading_bos(),
            perplexity: options.perplexity && has_logits,
            probe: options.lens.clone().map(|lens| LensProbe::new(model, lens)),
            reader: options.read_ahead.as_ref().and_then(Reader::start),
            sampled: options.sample.clone(),
            bound: Arc::default(),
            sampled_tokens: Vec::new(),
            tokens_done: Arc::clone(&options.tokens_done),
        })
    }

    /// Returns true if perplexity is requested and the model computes logits.
    pub(super) fn perplexity(&self) -> bool {
        self.perplexity
    }

    pub(super) fn computes_all_logits(&self) -> Option<&'static str> {
        self.context.computes_all_logits()
    }

    pub(super) fn collector(&self) -> Collector {
        self.context.observer().lane.collector()
    }

    /// Returns the bytes of host memory that a run uses for the cache and for computation; `None` if this build cannot
    /// tell.
    pub(super) fn host_memory(&self) -> Option<[u64; 2]> {
        let host = self.context.memory()?.into_iter().find(|memory| memory.device.is_none())?;
        Some([host.cache as u64, host.compute.saturating_sub(self.context.unused_logits()) as u64])
    }

    pub(super) fn timings(&self) -> Timings {
        self.context.timings()
    }

    pub(super) fn set_threads(&mut self, n_threads: usize) {
        self.context.set_threads(n_threads);
        if let Some(probe) = &mut self.probe {
            probe.set_threads(n_threads);
        }
    }

    /// Adds the following batches to `collector`, starting with its first. Tokens above `bound` are not sampled.
    pub(super) fn enter(&mut self, collector: &Collector, bound: &Arc<AtomicU64>) {
        self.bound = Arc::clone(bound);
        *self.context.observer_mut() = Watcher::new(collector.lane()).with_reader(self.reader.clone());
    }

    /// Evaluates batch `index`, which consists of `chunks` and is batch `number` of the text. Returns after the computation
    /// has finished.
    pub(super) fn evaluate(&mut self, index: usize, number: usize, chunks: &[usize]) -> Result<Evaluated, Error> {
        let (Some(&first), Some(&last)) = (chunks.first(), chunks.last()) else { return Ok(Evaluated::default()) };
        self.learn(first, chunks)?;
        self.context.observer_mut().lane.begin_numbered_batch(index, number);
        self.context.clear_memory();
        if let Some(nextn) = &mut self.nextn {
            nextn.clear();
        }
        let mut out =
            Evaluated { sample: RowSample::new(self.sampled.clone().unwrap_or_default()), ..Evaluated::default() };
        if self.chunks.are_documents() {
            self.decode_rows(chunks, &mut out)?;
        } else {
            self.decode_abreast(first, chunks, &mut out)?;
        }
        self.context.synchronize();
        self.context.observer_mut().lane.end_batch().map_err(|error| {
            // It is unknown which chunk of the batch caused the error.
            let ends = [self.chunks.start(first), self.chunks.start(last) + self.chunks.get(last).len() - 1];
            let place = |token| if token == 0 { (first, ends[0]) } else { (last, ends[1]) };
            failed(llama::Error::Observer(error.into()), chunks, 2, place)
        })?;
        Ok(out)
    }

    /// Decodes chunks of documents, one after the other. A decode takes as many rows as a micro-batch.
    fn decode_rows(&mut self, chunks: &[usize], out: &mut Evaluated) -> Result<(), Error> {
        let rows = Rows::new(self.chunks, chunks);
        out.nlls = vec![Vec::new(); if self.perplexity { chunks.len() } else { 0 }];
        let step = self.step_of_rows();
        let drawn = self.draw(chunks);
        for from in (0..rows.len()).step_by(step) {
            let part = from..(from + step).min(rows.len());
            rows.fill(&mut self.batch, part.clone());
            let targets = if self.perplexity { rows.targets(part.clone()) } else { vec![None; part.len()] };
            let failed = |source| {
                let place = |token: usize| rows.place(part.start + token);
                failed(source, chunks, part.len(), |token| {
                    let (_, chunk, position) = place(token);
                    (chunk, self.chunks.start(chunk) + position)
                })
            };
            let shape = rows_shape(part.len());
            let points = |row| rows.place(part.start + row);
            self.select_points(shape, part.len(), &drawn, points);
            self.select_tokens(part.len(), &out.sample, points);
            let scores = self.context.score(&mut self.batch, targets).map_err(failed)?;
            self.look(shape, &mut out.findings)?;
            self.sample_tokens(&mut out.sample);
            if let Some(nextn) = &mut self.nextn {
                nextn.follow(&mut self.context, &self.batch).map_err(failed)?;
            }
            self.tokens_done.fetch_add(part.len() as u64, Ordering::Relaxed);
            if self.perplexity {
                rows.sort(part, &scores.ok_or_else(no_logits)?, &mut out.nlls);
            }
        }
        Ok(())
    }

    /// Decodes chunks of equal length in parallel, as one sequence each.
    fn decode_abreast(&mut self, first: usize, chunks: &[usize], out: &mut Evaluated) -> Result<(), Error> {
        let len = self.chunks.get(first).len();
        let perplexity = self.perplexity && len == self.chunks.size();
        out.nlls = vec![Vec::new(); if perplexity { chunks.len() } else { 0 }];
        let step = self.step(chunks.len());
        let drawn = self.draw(chunks);
        for from in (0..len).step_by(step) {
            let positions = from..(from + step).min(len);
            self.fill_batch(chunks, &positions);
            let targets = if perplexity { self.targets(chunks, &positions) } else { vec![None; self.batch.len()] };
            let failed = |source| {
                let each = positions.len();
                self::failed(source, chunks, chunks.len() * each, |token| {
                    let chunk = chunks[token / each];
                    (chunk, self.chunks.start(chunk) + positions.start + token % each)
                })
            };
            let shape = (positions.len(), chunks.len());
            let each = positions.len();
            let place = |row: usize| (row / each, chunks[row / each], positions.start + row % each);
            self.select_points(shape, each * chunks.len(), &drawn, place);
            self.select_tokens(each * chunks.len(), &out.sample, place);
            let scores = self.context.score(&mut self.batch, targets).map_err(failed)?;
            self.look(shape, &mut out.findings)?;
            self.sample_tokens(&mut out.sample);
            if let Some(nextn) = &mut self.nextn {
                nextn.follow(&mut self.context, &self.batch).map_err(failed)?;
            }
            self.tokens_done.fetch_add((each * chunks.len()) as u64, Ordering::Relaxed);
            if perplexity {
                let scores = scores.ok_or_else(no_logits)?;
                let each = scores.len() / out.nlls.len();
                for (sequence, nlls) in out.nlls.iter_mut().enumerate() {
                    nlls.extend_from_slice(&scores[sequence * each..][..each]);
                }
            }
        }
        Ok(())
    }

    /// Draws the positions of each chunk to measure, among those whose next token is known.
    fn draw(&self, chunks: &[usize]) -> Vec<Vec<usize>> {
        let Some(probe) = &self.probe else { return Vec::new() };
        let options = probe.options();
        let draw = |&chunk: &usize| {
            let among = match &options.base {
                None => 0..self.chunks.get(chunk).len().saturating_sub(1),
                Some(base) if chunk < base.n_chunks => base.file.positions(),
                Some(_) => 0..0,
            };
            positions(options.seed, chunk as u64, among, options.per_chunk)
        };
        chunks.iter().map(draw).collect()
    }

    /// Passes the graphs of the decodes of these chunks to the probe, except those that it knows.
    fn learn(&mut self, first: usize, chunks: &[usize]) -> Result<(), Error> {
        let Some(mut probe) = self.probe.take() else { return Ok(()) };
        let whole = |source| Error::Chunks { first: first + 1, last: chunks[chunks.len() - 1] + 1, source };
        if self.chunks.are_documents() {
            let rows = Rows::new(self.chunks, chunks);
            let step = self.step_of_rows();
            for n in [step.min(rows.len()), rows.len() % step] {
                if n > 0 && probe.needs_graph(rows_shape(n)) {
                    rows.fill(&mut self.batch, 0..n);
                    let graph = self.context.record(&mut self.batch).map_err(whole)?;
                    probe.learn_graph(rows_shape(n), n, &graph);
                }
            }
        } else {
            let (len, step) = (self.chunks.get(first).len(), self.step(chunks.len()));
            for n in [step.min(len), len % step] {
                let shape = (n, chunks.len());
                if n > 0 && probe.needs_graph(shape) {
                    self.fill_batch(chunks, &(0..n));
                    let graph = self.context.record(&mut self.batch).map_err(whole)?;
                    probe.learn_graph(shape, n * chunks.len(), &graph);
                }
            }
        }
        self.probe = Some(probe);
        Ok(())
    }

    /// Makes the probe capture the drawn positions in the next decode. `place` returns the sequence, the chunk and the
    /// position of a row.
    fn select_points(
        &mut self,
        shape: (usize, usize),
        n_rows: usize,
        drawn: &[Vec<usize>],
        place: impl Fn(usize) -> (usize, usize, usize),
    ) {
        let Some(probe) = &mut self.probe else { return };
        let point = |row| {
            let (sequence, chunk, position) = place(row);
            let target = *self.chunks.get(chunk).get(position + 1)?;
            drawn[sequence].binary_search(&position).ok()?;
            Some(SamplePoint { chunk, position, target, row })
        };
        let points = (0..n_rows).filter_map(point).collect();
        probe.select(&mut self.context.observer_mut().lens, shape, points);
    }

    /// Measures the captured rows.
    fn look(&mut self, shape: (usize, usize), findings: &mut BTreeMap<usize, ChunkFindings>) -> Result<(), Error> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        probe
            .measure(&mut self.context.observer_mut().lens, shape, findings)
            .map_err(|error| Error::Refused(format!("failed to measure the layers: {error}")))
    }

    /// Makes the next decode, of `n_tokens` tokens, copy the rows of those that may be in the sample of the run, of which
    /// `so_far` is a part. `place` returns the sequence, the chunk and the position of a row.
    fn select_tokens(&mut self, n_tokens: usize, so_far: &RowSample, place: impl Fn(usize) -> (usize, usize, usize)) {
        let Some(layers) = &self.sampled else { return };
        let bound = self.bound.load(Ordering::Relaxed).min(so_far.bound());
        let token = |row| {
            let (_, chunk, position) = place(row);
            (RowSample::order(chunk, position), row, (chunk, position))
        };
        let mut tokens: Vec<_> = (0..n_tokens).map(token).filter(|(order, ..)| *order <= bound).collect();
        if tokens.len() > ROWS {
            tokens.select_nth_unstable(ROWS);
            tokens.truncate(ROWS);
        }
        let rows = tokens.iter().map(|(_, row, _)| *row).collect();
        self.sampled_tokens = tokens.into_iter().map(|(.., token)| token).collect();
        self.context.observer_mut().rows.start(layers, rows, n_tokens);
    }

    /// Adds the copied rows to a sample.
    fn sample_tokens(&mut self, sample: &mut RowSample) {
        let copied = self.context.observer_mut().rows.take();
        for ((chunk, position), rows) in self.sampled_tokens.drain(..).zip(copied) {
            sample.offer(chunk as u64, position as u64, &rows);
        }
    }

    /// Returns the number of rows of documents per decode.
    fn step_of_rows(&self) -> usize {
        if self.context.has_memory() { self.n_ubatch } else { self.n_batch }
    }

    /// Returns the number of tokens of each of `n_seq` chunks per decode. With memory, a decode is one micro-batch if
    /// that has room for a token of each chunk: buffers for results are then as small as possible, and the
    /// micro-batches are those of a larger decode. A NextN layer evaluates each decode one token behind, so smaller
    /// decodes would change its micro-batches: with one, a decode takes `n_batch` tokens.
    fn step(&self, n_seq: usize) -> usize {
        let size = self.chunks.size();
        match self.n_ubatch / n_seq {
            _ if self.nextn.is_some() => self.n_batch.min(size),
            0 => size,
            _ if !self.context.has_memory() => size,
            at_once => at_once.min(self.n_batch).min(size),
        }
    }

    fn fill_batch(&mut self, chunks: &[usize], positions: &Range<usize>) {
        self.batch.clear();
        for (sequence, &chunk) in (0..).zip(chunks) {
            let tokens = self.chunks.get(chunk);
            for position in positions.clone() {
                let token = self.bos.filter(|_| position == 0).unwrap_or(tokens[position]);
                self.batch.add(token, position as i32, sequence);
            }
        }
    }

    /// Returns the next token of each position in the second half of a chunk, `None` for other positions.
    fn targets(&self, chunks: &[usize], positions: &Range<usize>) -> Vec<Option<i32>> {
        let size = self.chunks.size();
        let scored = size / 2..size - 1;
        let target = |tokens: &[i32], position: usize| scored.contains(&position).then(|| tokens[position + 1]);
        chunks
            .iter()
            .flat_map(|&chunk| positions.clone().map(move |position| (chunk, position)))
            .map(|(chunk, position)| target(self.chunks.get(chunk), position))
            .collect()
    }
}

fn no_logits() -> Error {
    Error::Refused("the model computes no logits, which perplexity needs; hint: run with --no-ppl".to_owned())
}

/// Returns the shape under which the probe stores graphs of documents. Graphs of any length differ only in whether
/// there is one token or several.
fn rows_shape(n: usize) -> (usize, usize) {
    (n.min(2), 0)
}

/// Converts an error of a decode of `n_tokens` tokens of `chunks`. `place` returns the chunk and the position in the
/// text of each token.
fn failed(source: llama::Error, chunks: &[usize], n_tokens: usize, place: impl Fn(usize) -> (usize, usize)) -> Error {
    let token = match &source {
        llama::Error::Observer(cause) => match cause.downcast_ref() {
            Some(collect::Error::NonFinite { token, .. }) => Some(*token),
            Some(collect::Error::NonFiniteOnDevice { .. }) => Some(None),
            _ => None,
        },
        _ => None,
    };
    match token {
        None => Error::Chunks { first: chunks[0] + 1, last: chunks[chunks.len() - 1] + 1, source },
        Some(Some(token)) if token < n_tokens => {
            let (chunk, first) = place(token);
            let last = (token..n_tokens).map(&place).take_while(|(of, _)| *of == chunk).last();
            let last = last.map_or(first, |(_, last)| last);
            Error::BadChunks { chunks: vec![chunk], tokens: (first, last), source }
        }
        Some(_) => {
            let tokens = (place(0).1, place(n_tokens.saturating_sub(1)).1);
            Error::BadChunks { chunks: chunks.to_vec(), tokens, source }
        }
    }
}
