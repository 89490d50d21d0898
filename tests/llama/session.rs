//! A session: text in, matrix out.

use std::ops::ControlFlow;

use llama_imatrix::calibration::{self, ChunkOptions};
use llama_imatrix::evaluate::{Lanes, RunOptions};
use llama_imatrix::imatrix::{ChunkSizes, Format};
use llama_imatrix::{Imatrix, Progress, Session, SessionError, SessionOptions};

use super::{with_built, with_model};
use crate::support;

fn options() -> SessionOptions {
    SessionOptions {
        chunks: ChunkOptions { size: 64, limit: Some(12), ..ChunkOptions::default() },
        dataset: Some("words".to_owned()),
        run: RunOptions { n_batch: 64, n_threads: 1, n_threads_batch: 1, ..RunOptions::default() },
        ..SessionOptions::default()
    }
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn bytes(imatrix: &Imatrix) -> Vec<u8> {
    let mut bytes = Vec::new();
    imatrix.write(&mut bytes, Format::Gguf).unwrap();
    bytes
}

#[test]
fn a_session_collects_a_matrix_and_reports_progress_in_order() {
    with_model(|model| {
        let text = support::text(1500, 3);
        let mut heard = Vec::new();
        let perplexity = RunOptions { perplexity: true, ..options().run };
        let session = Session::new(model, SessionOptions { run: perplexity, ..options() });
        let collected = session
            .collect(text.as_bytes(), |progress| {
                heard.push(progress);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(matches!(heard[0], Progress::Tokenized { chunks: 12, tokens } if tokens > 12 * 64));
        assert_eq!(heard.len(), 13);
        for (i, progress) in heard[1..].iter().enumerate() {
            let Progress::Chunks { done, total: 12, perplexity: Some(ppl) } = progress else { panic!("{progress:?}") };
            assert!(*done == i + 1 && ppl.is_finite());
        }
        let matrix = &collected.imatrix;
        assert_eq!((matrix.chunk_count, matrix.chunk_size, matrix.datasets.len()), (12, 64, 1));
        assert!(!collected.cancelled && collected.discarded.is_empty() && collected.perplexity.is_some());
        assert_eq!(collected.done.len(), 12);

        // Side by side or one by one, with perplexity or without: the same bytes.
        let lanes = SessionOptions { run: RunOptions { lanes: Lanes::Count(2), ..options().run }, ..options() };
        let again = Session::new(model, lanes).collect(text.as_bytes(), go_on).unwrap();
        assert_eq!(bytes(&again.imatrix), bytes(matrix));
    });
}

#[test]
fn a_cancelled_session_returns_the_sums_so_far() {
    with_model(|model| {
        let text = support::text(1500, 3);
        let session = Session::new(model, options());
        let collected = session
            .collect(text.as_bytes(), |progress| match progress {
                Progress::Chunks { done: 3.., .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .unwrap();
        assert!(collected.cancelled);
        let chunks = collected.imatrix.chunk_count;
        assert!((3..12).contains(&chunks), "{chunks}");

        // As if no more had been asked for.
        let whole =
            SessionOptions { chunks: ChunkOptions { limit: Some(chunks as usize), ..options().chunks }, ..options() };
        let whole = Session::new(model, whole).collect(text.as_bytes(), go_on).unwrap();
        assert_eq!(bytes(&whole.imatrix), bytes(&collected.imatrix));

        let session = Session::new(model, options());
        let cancel = session.canceller();
        cancel.cancel();
        let collected = session.collect(text.as_bytes(), go_on).unwrap();
        assert!(collected.cancelled && cancel.is_cancelled() && collected.imatrix.is_empty());
    });
}

#[test]
fn sums_can_be_added_to_earlier_ones() {
    with_model(|model| {
        let text = support::text(1500, 3);
        let once = Session::new(model, options()).collect(text.as_bytes(), go_on).unwrap().imatrix;
        let session = Session::new(model, options()).starting_from(once.clone());
        let twice = session.collect(text.as_bytes(), go_on).unwrap().imatrix;
        assert_eq!((twice.chunk_count, twice.datasets.len(), twice.chunk_size), (24, 2, 64));
        let mut merged = once.clone();
        merged.merge(&once.into(), ChunkSizes::default()).unwrap();
        for (name, entry) in &twice {
            let sum = merged.get(name).unwrap();
            assert_eq!(entry.counts, sum.counts);
            for (a, b) in entry.sum2.iter().zip(&sum.sum2) {
                assert!((a - b).abs() <= 1e-4 * b, "{name}: {a} {b}");
            }
        }
    });
}

#[test]
fn impossible_sessions_are_errors() {
    with_model(|model| {
        let run = |options: SessionOptions, text: &str| Session::new(model, options).collect(text.as_bytes(), go_on);
        for size in [0, usize::MAX] {
            let options = SessionOptions { chunks: ChunkOptions { size, ..options().chunks }, ..options() };
            assert!(matches!(run(options, "words"), Err(SessionError::ChunkSize(found)) if found == size));
        }
        let error = run(options(), "a few words").unwrap_err();
        assert!(matches!(error, SessionError::Text(calibration::Error::TooShort { needed: 128, .. })), "{error}");
    });
}

/// Text with a bad token in every fiftieth chunk. Going back to the beginning each time would take some 3600 batches more.
#[test]
fn discarded_chunks_cost_few_batches_each_wherever_they_are() {
    with_built("llama-nan-token", |model| {
        let words = support::text(12_000, 3).replace(support::LATE, "");
        let every = words.len() / 12;
        let mut text = String::new();
        for (i, word) in words.split_inclusive(' ').enumerate() {
            let parts = (text.len() / every, (text.len() + word.len()) / every);
            text.push_str(word);
            if i > 0 && parts.0 < parts.1 {
                text.push(support::LATE);
                text.push(' ');
            }
        }
        for lanes in [1, 2] {
            let run = RunOptions { max_bad_chunks: 20, lanes: Lanes::Count(lanes), ..options().run };
            let chunks = ChunkOptions { size: 64, ..ChunkOptions::default() };
            let session = Session::new(model, SessionOptions { run, chunks, ..options() });
            let mut evaluated = 0;
            let mut n_chunks = 0;
            let collected = session.collect(text.as_bytes(), |progress| {
                match progress {
                    Progress::Tokenized { chunks, .. } => n_chunks = chunks,
                    Progress::Chunks { .. } => evaluated += 1,
                    _ => {}
                }
                ControlFlow::Continue(())
            });
            let bad = collected.unwrap().discarded.len() as usize;
            assert!(n_chunks > 400 && bad > 8, "{n_chunks} chunks, {bad} bad");
            assert!(evaluated <= n_chunks + bad * 65, "{evaluated} of {n_chunks} chunks, {bad} bad, {lanes} lanes");
        }
    });
}
