//! The library's own way to the same matrix, and the first bit in which two differ.

use llama_imatrix::calibration::{ChunkOptions, Chunks, Documents};
use llama_imatrix::collect::{Earlier, Rule, Snapshot};
use llama_imatrix::evaluate::{Lanes, Listener, RunOptions, Start};
use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::llama::{FlashAttention, Model};
use llama_imatrix::nextn::Layer;
use llama_imatrix::state::Accumulate;
use llama_imatrix::{Session, SessionOptions};

use super::cases::Setup;
use super::upstream::{Collected, documents};

struct Silent;

impl Listener for Silent {
    fn due(&mut self, _: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
    fn first_batch(&mut self, _: f32, _: usize, _: usize) {}
    fn perplexity(&mut self, _: usize, _: f64) {}
    fn progress(&mut self, _: usize, _: usize) {}
}

pub(super) fn collect(
    model: &Model,
    layer: Option<Layer<'_>>,
    setup: &Setup,
    lanes: usize,
    earlier: &Imatrix,
) -> Imatrix {
    let accumulate = if setup.exact { Accumulate::F64 } else { Accumulate::F32 };
    let chunk_options = ChunkOptions {
        size: setup.size,
        skip: setup.skip,
        limit: setup.limit,
        keep_tail: setup.keep_tail,
        ..ChunkOptions::default()
    };
    let options = SessionOptions {
        chunks: chunk_options,
        rule: Rule { min_rows: setup.min_rows, process_output: setup.process_output, nextn: setup.nextn },
        accumulate,
        run: RunOptions {
            n_batch: setup.n_batch,
            n_ubatch: setup.n_ubatch,
            n_threads: lanes as i32,
            n_threads_batch: lanes as i32,
            flash_attention: match setup.flash_attention {
                None => FlashAttention::Auto,
                Some(true) => FlashAttention::On,
                Some(false) => FlashAttention::Off,
            },
            perplexity: setup.perplexity,
            lanes: Lanes::Count(lanes),
            part: setup.part.clone(),
            max_bad_chunks: setup.max_bad_chunks,
            ..RunOptions::default()
        },
        ..SessionOptions::default()
    };
    let vocab = model.vocab();
    let tokens = |text: &str| vocab.tokenize(text.as_bytes(), false).unwrap();
    let chunks = if setup.documents {
        let mut all = Documents::default();
        for text in documents() {
            all.push(&tokens(&text));
        }
        Chunks::of_documents(all, chunk_options).unwrap()
    } else {
        Chunks::new(tokens(&super::text()), chunk_options).unwrap()
    };
    let session = Session::new(model, options).with_nextn(layer);
    let start = Start::new(Earlier::from_imatrix(earlier, accumulate).unwrap());
    let (collector, _) = session.run(&chunks, start, &mut Silent).unwrap();
    collector.finish().unwrap()
}

/// The first weight and value whose bits differ.
pub(super) fn difference(want: &Collected, found: &Imatrix) -> Option<String> {
    let names =
        |left: Vec<&String>, right: &dyn Fn(&String) -> bool| left.into_iter().find(|name| !right(name)).cloned();
    if let Some(name) = names(want.entries.keys().collect(), &|name| found.entries.contains_key(name)) {
        return Some(format!("no {name}"));
    }
    if let Some(name) = names(found.entries.keys().collect(), &|name| want.entries.contains_key(name)) {
        return Some(format!("{name}, which is not collected"));
    }
    if found.chunk_count != want.chunk_count {
        return Some(format!("{} chunks, not {}", found.chunk_count, want.chunk_count));
    }
    for (name, entry) in &found.entries {
        let want_entry = &want.entries[name];
        if entry.counts != want_entry.counts {
            return Some(format!("{name}: counts {:?}, not {:?}", entry.counts, want_entry.counts));
        }
        let Some(sum) = &entry.sum else { return Some(format!("{name}: no sums of activations")) };
        if (entry.sum2.len(), sum.len()) != (want_entry.sum2.len(), want_entry.sum.len()) {
            return Some(format!("{name}: {} values, not {}", sum.len(), want_entry.sum.len()));
        }
        let differs = match &want_entry.exact {
            Some(exact) if want.exact => exact.first_difference(sum, &entry.sum2),
            _ => [("sum2", &entry.sum2, &want_entry.sum2), ("sum", sum, &want_entry.sum)].into_iter().find_map(
                |(what, found, want)| {
                    let i = found.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits())?;
                    Some(format!("{what}[{i}] is {:e}, not {:e}", found[i], want[i]))
                },
            ),
        };
        if let Some(differs) = differs {
            return Some(format!("{name}: {differs}"));
        }
    }
    None
}
