//! Several models over the same chunks: their logits, a few tokens at a time.

use std::io::{self, Write};
use std::ops::{ControlFlow, Range};

use rayon::prelude::*;

use super::divergence::{Divergence, RowScore, compare};
use crate::calibration::Chunks;
use crate::lens::base::{BaseError, BaseRow, LogitsFile, write_header};
use crate::llama::{self, Batch, Context, ContextOptions, Model, Outputs, Token};

/// Tokens evaluated at once, so that there are never more rows of logits.
pub const TOKENS_AT_ONCE: usize = 64;

/// The reason why models cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// An error of llama.cpp.
    #[error(transparent)]
    Llama(#[from] llama::Error),
    /// A candidate with another vocabulary.
    #[error(
        "candidate {candidate} has {found} tokens in its vocabulary, the reference {expected}: it is no version of the same model"
    )]
    Vocabulary {
        /// Number of the candidate, from 1.
        candidate: usize,
        /// Its tokens.
        found: usize,
        /// The reference's tokens.
        expected: usize,
    },
    /// A model that has no logits for each token, given those before it.
    #[error("the model is an encoder or a diffusion model: it does not predict the next token")]
    NoPrediction,
    /// A file of the reference's logits that is damaged, or of another text.
    #[error(transparent)]
    Logits(#[from] BaseError),
    /// The reference's logits cannot be written.
    #[error("cannot write the logits: {0}")]
    Write(#[from] io::Error),
    /// Logits that are not numbers.
    #[error("the logits after token {position} of chunk {chunk} are not finite")]
    NotFinite {
        /// The chunk, from 1.
        chunk: usize,
        /// The token, from 1.
        position: usize,
    },
}

/// A model that evaluates one chunk after the other.
pub struct Evaluation<'m> {
    context: Context<'m, ()>,
    /// The token that replaces the first of each chunk, but not of chunks of documents, which begin with their own.
    bos: Option<Token>,
    n_vocab: usize,
}

impl<'m> Evaluation<'m> {
    /// Creates a context for these chunks.
    ///
    /// # Errors
    /// Without enough memory; for models that do not predict the next token.
    pub fn new(model: &'m Model, chunks: &Chunks, n_threads: usize) -> Result<Self, EvaluationError> {
        if model.is_diffusion() || model.is_encoder_decoder() {
            return Err(EvaluationError::NoPrediction);
        }
        let n_threads = i32::try_from(n_threads).unwrap_or(1);
        let options = ContextOptions {
            n_ctx: u32::try_from(chunks.size()).unwrap_or(u32::MAX),
            n_threads,
            n_threads_batch: n_threads,
            ..ContextOptions::new(TOKENS_AT_ONCE as u32, Outputs::All)
        };
        let context = Context::new(model, &options, ())?;
        if !context.has_memory() {
            return Err(EvaluationError::NoPrediction);
        }
        let bos = if chunks.are_documents() { None } else { model.vocab().leading_bos() };
        Ok(Self { context, bos, n_vocab: model.vocab().n_tokens() })
    }

    /// Clears the memory of the last chunk.
    pub fn begin(&mut self) {
        self.context.clear_memory();
    }

    /// Evaluates some tokens of a chunk, at most [`TOKENS_AT_ONCE`], after those before them. Returns a row of logits
    /// per token.
    ///
    /// # Errors
    /// As [`Context::decode`].
    pub fn logits(&mut self, chunk: &[Token], range: Range<usize>) -> Result<Vec<&[f32]>, EvaluationError> {
        let mut batch = Batch::new();
        for position in range {
            let first = if position == 0 { self.bos } else { None };
            batch.add(first.unwrap_or(chunk[position]), position as i32, 0);
        }
        self.context.decode(&mut batch)?;
        let n_vocab = self.n_vocab;
        Ok(self.context.logits().ok_or(EvaluationError::NoPrediction)?.chunks_exact(n_vocab).collect())
    }
}

/// Returns the parts that a chunk is evaluated in.
pub fn parts(size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..size).step_by(TOKENS_AT_ONCE).map(move |start| start..(start + TOKENS_AT_ONCE).min(size))
}

/// Returns the positions that count: as in llama-perplexity those of the second half that have a next token.
#[must_use]
pub const fn scored(size: usize) -> Range<usize> {
    size / 2..size.saturating_sub(1)
}

/// Compares rows of logits with a reference's. Rows are those of `part`; the result has the ones that count.
pub(super) fn compare_rows(
    base: &[BaseRow],
    rows: &[&[f32]],
    chunk: &[Token],
    part: &Range<usize>,
) -> Result<Vec<RowScore>, usize> {
    let wanted = part.clone().filter(|position| scored(chunk.len()).contains(position)).collect::<Vec<_>>();
    let score = |(base, &position): (&BaseRow, &usize)| {
        let next = usize::try_from(chunk[position + 1]).unwrap_or(usize::MAX);
        compare(base, rows[position - part.start], next).filter(|score| score.divergence.is_finite()).ok_or(position)
    };
    base.par_iter().zip(&wanted).map(score).collect()
}

/// Rounds the reference's rows that count.
pub(super) fn base_rows(rows: &[&[f32]], size: usize, part: &Range<usize>) -> Vec<BaseRow> {
    let wanted: Vec<&[f32]> =
        part.clone().zip(rows).filter(|(position, _)| scored(size).contains(position)).map(|(_, row)| *row).collect();
    wanted.par_iter().map(|row| BaseRow::new(row)).collect()
}

/// The source of the reference's distributions.
pub enum Baseline<'r> {
    /// The model.
    Model(&'r Model),
    /// What `llama-perplexity --save-all-logits` or [`divergences`] wrote of the model and the same text.
    Logits(&'r LogitsFile),
}

impl Baseline<'_> {
    /// Returns the number of tokens in the vocabulary.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        match self {
            Self::Model(model) => model.vocab().n_tokens(),
            Self::Logits(file) => file.n_vocab(),
        }
    }

    /// Returns the number of chunks that it has distributions for.
    ///
    /// # Errors
    /// A file of another text.
    pub fn n_chunks(&self, chunks: &Chunks) -> Result<usize, EvaluationError> {
        match self {
            Self::Model(_) => Ok(chunks.n_whole()),
            Self::Logits(file) => Ok(file.check(file.n_vocab(), chunks, 0)?),
        }
    }
}

/// Gives the reference's distributions, a part of a chunk at a time.
enum BaseRows<'r> {
    Model(Evaluation<'r>),
    Logits(&'r LogitsFile),
}

impl<'r> BaseRows<'r> {
    fn new(baseline: &Baseline<'r>, chunks: &Chunks, n_threads: usize) -> Result<Self, EvaluationError> {
        Ok(match *baseline {
            Baseline::Model(model) => Self::Model(Evaluation::new(model, chunks, n_threads)?),
            Baseline::Logits(file) => Self::Logits(file),
        })
    }

    fn begin(&mut self) {
        if let Self::Model(evaluation) = self {
            evaluation.begin();
        }
    }

    /// Returns the rows of a part that count; `number` is the chunk's.
    fn rows(&mut self, number: usize, chunk: &[Token], part: &Range<usize>) -> Result<Vec<BaseRow>, EvaluationError> {
        match self {
            Self::Model(evaluation) => Ok(base_rows(&evaluation.logits(chunk, part.clone())?, chunk.len(), part)),
            Self::Logits(file) => {
                let wanted = part.clone().filter(|position| scored(chunk.len()).contains(position));
                Ok(wanted.map(|position| file.row(number, position)).collect::<Result<_, _>>()?)
            }
        }
    }
}

/// Compares each candidate with the reference over all chunks. `each` is told of each chunk that has a position that counts: its
/// number, the comparison so far, and that of the chunk alone; it may end the comparison. The reference's distributions go to `save` as a logits file, which is
/// complete if `each` does not end the comparison.
///
/// Beside the models, the memory that this takes does not depend on the text: it is that of 64 rows of logits per
/// model.
///
/// # Errors
/// See [`EvaluationError`].
pub fn divergences(
    baseline: &Baseline<'_>,
    candidates: &[Model],
    chunks: &Chunks,
    n_threads: usize,
    mut save: Option<&mut dyn Write>,
    mut each: impl FnMut(usize, &[Divergence], &[Divergence]) -> ControlFlow<()>,
) -> Result<Vec<Divergence>, EvaluationError> {
    let expected = baseline.n_vocab();
    for (i, model) in candidates.iter().enumerate() {
        let found = model.vocab().n_tokens();
        if found != expected {
            return Err(EvaluationError::Vocabulary { candidate: i + 1, found, expected });
        }
    }
    let n_chunks = baseline.n_chunks(chunks)?;
    let mut base = BaseRows::new(baseline, chunks, n_threads)?;
    let evaluation = |model| Evaluation::new(model, chunks, n_threads);
    let mut others = candidates.iter().map(evaluation).collect::<Result<Vec<_>, _>>()?;
    if let Some(w) = &mut save {
        if chunks.are_documents() {
            return Err(BaseError::documents().into());
        }
        write_header(w, expected, chunks)?;
    }
    let mut all = vec![Divergence::default(); candidates.len()];
    for number in 0..n_chunks {
        let chunk = chunks.get(number);
        let mut own = vec![Divergence::default(); candidates.len()];
        if scored(chunk.len()).is_empty() {
            continue; // a document of one token or two
        }
        base.begin();
        others.iter_mut().for_each(Evaluation::begin);
        for part in parts(chunk.len()) {
            let rows = base.rows(number, chunk, &part)?;
            if let Some(w) = &mut save {
                rows.iter().try_for_each(|row| row.write(w))?;
            }
            for ((other, total), own) in others.iter_mut().zip(&mut all).zip(&mut own) {
                let scores = compare_rows(&rows, &other.logits(chunk, part.clone())?, chunk, &part)
                    .map_err(|position| EvaluationError::NotFinite { chunk: number + 1, position: position + 1 })?;
                for score in &scores {
                    total.add(score);
                    own.add(score);
                }
            }
        }
        if each(number, &all, &own).is_break() {
            break;
        }
    }
    Ok(all)
}
