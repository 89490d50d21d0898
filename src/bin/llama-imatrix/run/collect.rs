//! The main job: evaluates a model over a text and collects its importance matrix.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use llama_imatrix::Collector;
use llama_imatrix::SessionOptions;
use llama_imatrix::calibration::Chunks;
use llama_imatrix::collect::{Earlier, Rule};
use llama_imatrix::evaluate::{Lanes, Layout, Outcome, RunOptions, Start};
use llama_imatrix::llama::{Backend, Model};
use llama_imatrix::nextn::Layer;

use super::base::Base;
use super::events::EventHandler;
use super::lens::LensResult;
use super::nextn::{load_draft, locate};
use super::state_file::StateFile;
use super::text::{Text, tokenize};
use super::weights::Weights;
use super::{dry_run, finish, last_saves, lens, micro_batch, preflight, saved, settings, shown};
use crate::config::Collect;
use crate::ui::signals::Signals;
use crate::ui::{log, progress};

/// Evaluates a model over a text, and saves its importance matrix.
pub(crate) fn collect(mut task: Collect) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let base = Base::load(&task)?;
    let weights = Weights::of(&task.model);
    preflight::check(&task, weights.as_ref())?;
    let signals = Signals::register()?;
    let backend = settings::start_backend_of_run(&task, &signals)?;
    let mut model_options = settings::model_options(&task, backend)?;
    micro_batch::settle_repacking(&mut task, &mut model_options, weights.as_ref())?;
    let model = settings::load_model(&task, &model_options)?;
    let draft = load_draft(&task, &model, &model_options)?;
    let nextn = locate(&task, &model, draft.as_ref())?;
    let tuning = settings::tuning(&task, &model)?;
    let text = tokenize(&task, &model)?;
    warn_of_length(&task, &model);
    let options = |task: &Collect, layout: &Layout| RunOptions {
        tuning: tuning.clone(),
        stop: Arc::clone(&signals.stop),
        ..run_options(task, layout)
    };
    let streaming =
        micro_batch::settle(&mut task, &model, &model_options, weights.as_ref(), nextn.is_some(), &text, &options)?;
    let task = &task;
    let layout = Layout::new(&model, nextn.is_some(), &text.chunks, task.n_batch, task.n_ubatch);
    log_system(task, backend);
    let options = RunOptions {
        lens: lens::options(task, &model, &text.chunks)?,
        read_ahead: streaming.as_ref().map(|streaming| streaming.read_ahead.clone()),
        ..options(task, &layout)
    };
    // A second lane would read all weights once more.
    let one_lane = streaming.is_some() && options.lanes == Lanes::Auto;
    let mut options = if one_lane { RunOptions { lanes: Lanes::Count(1), ..options } } else { options };
    if task.flags.dry_run {
        dry_run::report(task, &model, nextn.as_ref(), &text, &layout, &options, streaming.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = shown::prepare(task, &model, &text.chunks, &layout, &options)?;
    options.sample = shown.as_ref().map(|shown| Arc::clone(shown.layers()));
    preflight::check_room(task, weights.as_ref(), &text.chunks, &layout)?;
    let earlier = Earlier::from_imatrix(&base.imatrix, task.accumulate)?;
    let base = base.into_metadata(task, nextn.is_some());
    let _lock = preflight::lock_output(task)?;
    let lens_settings = options.lens.as_ref().map(|lens| lens::settings(&model, lens));
    let mut state_file = StateFile::new(task, backend, &text, &base, lens_settings, options.sample.clone())?;
    let start = begin(task, state_file.as_mut(), earlier)?;
    log_plan(task, &text, &layout);
    signals.register_ending(layout.n_seq, saved::what_is_left)?;
    warn_of_empty_shard(task, &options);
    let mut events = EventHandler::new(task, base.imatrix, state_file, signals, streaming);
    let (collector, outcome) = evaluate(task, &model, nextn, &text.chunks, start, &options, &mut events)?;
    let lens = LensResult::new(task, &model, &text.chunks, &options, &outcome);
    if outcome.stopped {
        return last_saves::interrupted(task, &mut events, &collector, &outcome, text.chunks.len(), lens.as_ref());
    }
    finish::complete(task, &collector, &outcome, &mut events, lens.as_ref(), shown.as_mut(), started)?;
    Ok(ExitCode::SUCCESS)
}

fn warn_of_length(task: &Collect, model: &Model) {
    let chunk_size = task.merge.chunk_sizes.run;
    if chunk_size > model.n_ctx_train() {
        log::warn(format_args!(
            "model was trained on only {} context tokens ({chunk_size} specified)",
            model.n_ctx_train()
        ));
    }
}

fn log_system(task: &Collect, backend: &Backend) {
    log::info(format_args!(
        "system_info: n_threads = {} (n_threads_batch = {}) | {}",
        task.n_threads,
        task.n_threads_batch,
        backend.system_info()
    ));
}

/// Options of the run that follow from flags alone.
fn run_options(task: &Collect, layout: &Layout) -> RunOptions {
    let part = layout.part(task.shard);
    let max_bad_chunks = task.max_bad_chunks.unwrap_or_else(|| (part.len() / 100).max(1));
    RunOptions {
        part: Some(part),
        keep_likelihoods: !task.shard.is_whole(),
        max_bad_chunks,
        stop_when_covered: task.flags.stop_when_covered,
        stop_when_converged: task.flags.stop_when_converged,
        n_batch: task.n_batch,
        n_ubatch: task.n_ubatch,
        n_threads: task.n_threads,
        n_threads_batch: task.n_threads_batch,
        flash_attention: settings::flash_attention(&task.flags),
        perplexity: !task.flags.no_ppl,
        lanes: task.flags.lanes.map_or(Lanes::Auto, Lanes::Count),
        ..RunOptions::default()
    }
}

/// Returns the start of the run: its first chunk, or the one where an earlier run was stopped.
fn begin(task: &Collect, state: Option<&mut StateFile>, earlier: Earlier) -> anyhow::Result<Start> {
    let Some(state) = state else { return Ok(Start::new(earlier)) };
    if !task.flags.resume {
        state.refuse_to_overwrite()?;
        return Ok(Start::new(earlier));
    }
    let Some(start) = state.load()? else {
        log::info(format_args!(
            "'{}' does not exist: nothing to resume, starting with the first chunk",
            state.path().display()
        ));
        return Ok(Start::new(earlier));
    };
    let done = &start.position.done;
    log::info(format_args!("resuming from '{}': chunks {done} are done", state.path().display()));
    Ok(start)
}

/// Logs what will be evaluated.
fn log_plan(task: &Collect, text: &Text, layout: &Layout) {
    let chunks = &text.chunks;
    if task.documents {
        log::info(format_args!(
            "computing over {} chunks of {} documents, of up to {} tokens, in {} batches of up to {} tokens and {} \
             sequences",
            chunks.len(),
            text.n_documents,
            chunks.size(),
            layout.batches.len(),
            layout.n_ctx,
            layout.n_seq
        ));
    } else {
        log::info(format_args!(
            "computing over {} chunks, n_ctx={}, batch_size={}, n_seq={}",
            chunks.len(),
            chunks.size(),
            task.n_batch,
            layout.n_seq
        ));
    }
}

fn warn_of_empty_shard(task: &Collect, options: &RunOptions) {
    if !task.shard.is_whole() && options.part.as_ref().is_some_and(std::ops::Range::is_empty) {
        log::warn(format_args!("shard {} has no chunk: there are more shards than batches", task.shard));
    }
}

/// Evaluates the chunks. Events go to `events`, which also explains an error.
fn evaluate(
    task: &Collect,
    model: &Model,
    nextn: Option<Layer<'_>>,
    chunks: &Chunks,
    start: Start,
    options: &RunOptions,
    events: &mut EventHandler<'_>,
) -> anyhow::Result<(Collector, Outcome)> {
    let session_options = SessionOptions {
        rule: Rule { min_rows: task.min_rows.into(), process_output: task.flags.process_output, nextn: task.nextn },
        output_every: if task.shard.is_whole() { task.flags.output_frequency } else { 0 },
        copy_every: if task.shard.is_whole() { task.flags.save_frequency } else { 0 },
        accumulate: task.accumulate,
        sum_on: task.flags.sum_on,
        convergence: task.convergence.is_some(),
        run: options.clone(),
        ..SessionOptions::default()
    };
    let session = llama_imatrix::Session::new(model, session_options).with_nextn(nextn);
    let part = options.part.clone().unwrap_or(0..chunks.len());
    let total = part.map(|chunk| chunks.get(chunk).len() as u64).sum();
    let (tokens, before) = (Arc::clone(&options.tokens_done), start.position.tokens);
    events.show(progress::Evaluation::start(tokens, total, before, chunks.len()));
    let result = session.run(chunks, start, events);
    progress::finish();
    result.map_err(|error| events.explain(error))
}
