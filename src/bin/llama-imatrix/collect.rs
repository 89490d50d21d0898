//! The main job: a model over a text.

#[cfg(not(feature = "llama"))]
pub(crate) fn collect(_: &crate::config::Collect) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("this program was built without llama.cpp: it merges matrices and shows them, and collects none")
}

#[cfg(feature = "llama")]
pub(crate) use with_llama::collect;

#[cfg(feature = "llama")]
mod with_llama {
    use std::process::ExitCode;

    use llama_imatrix::SessionOptions;
    use llama_imatrix::atomic_file::remove_leftovers;
    use llama_imatrix::collect::{Collector, Earlier, Rule};
    use llama_imatrix::evaluate::{Lanes, Layout, Outcome, RunOptions, Start};
    use llama_imatrix::lens::LensOptions;
    use llama_imatrix::llama::{Model, Tuning};
    use llama_imatrix::nextn::check_files;

    use crate::config::Collect;
    use crate::in_files::{self, Base};
    use crate::lock::Lock;
    use crate::output::{print, print_estimate, print_saved, warn_of_discarded};
    use crate::session::Session;
    use crate::signals::Signals;
    use crate::state_file::StateFile;
    use crate::text::{self, Text};
    use crate::{disk, dry_run, last_saves, lens, log, progress, settings};

    pub(crate) fn collect(task: &Collect) -> anyhow::Result<ExitCode> {
        let Base { imatrix: mut base, digest: base_digest } = in_files::load(task)?;
        check_files(&task.model, task.draft_model.as_deref())?;
        if !task.flags.dry_run {
            disk::check_room(task, None)?;
            if task.merge.output.is_file() {
                Lock::check(task.merge.output.path())?;
            }
        }
        let signals = Signals::register()?;
        let backend = settings::start_backend(&task.flags, &signals)?;
        settings::warn_of_backend(&task.flags, backend);
        settings::register_products(&task.flags, backend);
        settings::set_priority(task);
        let model_options = settings::model_options(task, backend)?;
        let model = settings::load_model(task, &model_options)?;
        let draft = crate::nextn::load_draft(task, &model, &model_options)?;
        let nextn = crate::nextn::locate(task, &model, draft.as_ref())?;
        let tuning = settings::tuning(task, &model)?;
        let text = text::tokenize(task, &model)?;
        let Text { chunks, digest, n_tokens, n_documents } = &text;
        warn_of_length(task, &model);
        let layout = Layout::new(&model, nextn.is_some(), chunks, task.n_batch, task.n_ubatch);
        log::info(format_args!(
            "system_info: n_threads = {} (n_threads_batch = {}) | {}",
            task.n_threads,
            task.n_threads_batch,
            backend.system_info()
        ));

        let looking = lens::options(task, &model, chunks)?;
        let options = run_options(task, tuning, &layout, &signals, looking);
        if task.flags.dry_run {
            dry_run::report(task, &model, nextn.as_ref(), &text, &layout, &options)?;
            return Ok(ExitCode::SUCCESS);
        }
        disk::check_room(task, Some((chunks, &layout)))?;
        let earlier = Earlier::from_imatrix(&base, task.accumulate)?;
        base.entries.clear();
        base.settle_chunk_size(task.merge.chunk_sizes.run);
        base.datasets.extend(task.datasets.iter().cloned());
        if nextn.is_some() {
            base.n_layer_nextn = 1;
        }
        let _lock = lock_output(task)?;
        let mut state_file = StateFile::new(task, backend, digest, *n_tokens, chunks, &base, base_digest)?;
        let start = begin(task, state_file.as_mut(), earlier)?;
        if task.flags.documents {
            log::info(format_args!(
                "computing over {} chunks of {n_documents} documents, of up to {} tokens, in {} batches of up to {} tokens \
                 and {} sequences",
                chunks.len(),
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
        signals.register_ending(layout.n_seq)?;
        if !task.shard.is_whole() && options.part.as_ref().is_some_and(std::ops::Range::is_empty) {
            log::warn(format_args!("shard {} has no chunk: there are more shards than batches", task.shard));
        }
        let session_options = SessionOptions {
            rule: Rule { min_rows: task.min_rows.into(), process_output: task.flags.process_output, nextn: task.nextn },
            output_every: if task.shard.is_whole() { task.flags.output_frequency } else { 0 },
            copy_every: if task.shard.is_whole() { task.flags.save_frequency } else { 0 },
            accumulate: task.accumulate,
            sum_on: settings::sum_on(&task.flags),
            run: options.clone(),
            ..SessionOptions::default()
        };
        let evaluation = llama_imatrix::Session::new(&model, session_options).with_nextn(nextn);
        let mut session = Session::new(task, base, state_file, signals);
        progress::start_chunks(chunks.len());
        let result = evaluation.run(chunks, start, &mut session);
        progress::finish();
        session.print_held();
        let (collector, outcome) = result.map_err(|error| session.explain(error))?;
        let look = lens::Look::new(task, &model, chunks, &options, &outcome);
        if outcome.stopped {
            return last_saves::interrupted(task, &mut session, &collector, &outcome, look.as_ref());
        }
        print(format_args!("\n"));
        finish(task, &collector, &outcome, &mut session, look.as_ref())?;
        Ok(ExitCode::SUCCESS)
    }

    /// Keeps other runs from the output, and clears away what killed ones have left of their saves.
    fn lock_output(task: &Collect) -> anyhow::Result<Option<Lock>> {
        let output = &task.merge.output;
        if !output.is_file() {
            return Ok(None);
        }
        let lock = Lock::take(output.path())?;
        if lock.is_some() {
            for path in [output.path(), &task.state_path] {
                match remove_leftovers(path) {
                    Ok(0) => {}
                    Ok(n) => log::debug(format_args!("removed {n} unfinished saves of '{}'", path.display())),
                    Err(error) => log::debug(format_args!("unfinished saves of '{}' stay: {error}", path.display())),
                }
            }
        }
        Ok(lock)
    }

    /// Where the run begins: at its start, or where an earlier one was stopped.
    fn begin(task: &Collect, state: Option<&mut StateFile>, earlier: Earlier) -> anyhow::Result<Start> {
        let Some(state) = state else { return Ok(Start::new(earlier)) };
        if !task.flags.resume {
            state.refuse_to_overwrite()?;
            return Ok(Start::new(earlier));
        }
        let Some(start) = state.load()? else {
            log::info(format_args!("there is no '{}': nothing to resume, starting anew", state.path().display()));
            return Ok(Start::new(earlier));
        };
        let done = &start.position.done;
        log::info(format_args!("resuming from '{}': chunks {done} are done", state.path().display()));
        Ok(start)
    }

    fn finish(
        task: &Collect,
        collector: &Collector,
        outcome: &Outcome,
        session: &mut Session<'_>,
        look: Option<&lens::Look>,
    ) -> anyhow::Result<()> {
        let errors = last_saves::complete(task, session, collector, outcome, look);
        if let Some(estimate) = outcome.perplexity {
            print_estimate(&estimate);
        } else if task.flags.chunks == 0 && !task.flags.no_ppl {
            // What llama.cpp's tool makes of a perplexity of nothing.
            print(format_args!("Unexpected negative standard deviation of log(prob)\n"));
        }
        if let Some(look) = look {
            look.print();
        }
        tell_of_coverage(task, collector, outcome);
        warn_of_discarded(&outcome.position.discarded);
        if collector.inputs_of_too_few_rows() > 0 {
            log::warn(format_args!(
                "{} inputs of fewer than {} rows were passed over; --min-rows 1 collects them",
                collector.inputs_of_too_few_rows(),
                task.min_rows
            ));
        }
        last_saves::end(task, session, &errors)?;
        print_saved();
        print(format_args!("\n"));
        if task.flags.no_perf {
            return Ok(());
        }
        let timings = outcome.timings;
        log::info(format_args!(
            "load time {:.2} ms, evaluation {:.2} ms for {} tokens ({:.2} tokens per second)",
            timings.load_ms,
            timings.prompt_eval_ms,
            timings.prompt_tokens,
            1e3 * f64::from(timings.prompt_tokens) / timings.prompt_eval_ms
        ));
        Ok(())
    }

    /// Whether every expert has the tokens it was to have.
    fn tell_of_coverage(task: &Collect, collector: &Collector, outcome: &Outcome) {
        let Some(tokens) = task.flags.stop_when_covered else { return };
        match collector.experts() {
            None => log::warn(format_args!("--stop-when-covered: the model has no experts")),
            Some(_) if outcome.covered => {
                log::info(format_args!("every expert has {tokens} tokens after chunks {}", outcome.position.done));
            }
            Some(experts) => log::warn(format_args!(
                "the text ended before every expert had {tokens} tokens: the fewest are {}, {} of {} experts are unseen",
                experts.least, experts.unseen, experts.total
            )),
        }
    }

    fn run_options(
        task: &Collect,
        tuning: Tuning,
        layout: &Layout,
        signals: &Signals,
        lens: Option<LensOptions>,
    ) -> RunOptions {
        let part = layout.part(task.shard);
        let max_bad_chunks = match task.flags.max_bad_chunks {
            _ if task.flags.nan_aborts => 0,
            Some(chunks) => chunks,
            None => (part.len() / 100).max(1),
        };
        RunOptions {
            part: Some(part),
            keep_likelihoods: !task.shard.is_whole(),
            max_bad_chunks,
            lens,
            stop_when_covered: task.flags.stop_when_covered,
            stop: std::sync::Arc::clone(&signals.stop),
            n_batch: task.n_batch,
            n_ubatch: task.n_ubatch,
            n_threads: task.n_threads,
            n_threads_batch: task.n_threads_batch,
            flash_attention: settings::flash_attention(&task.flags),
            perplexity: !task.flags.no_ppl,
            lanes: task.flags.lanes.map_or(Lanes::Auto, Lanes::Count),
            tuning,
        }
    }

    fn warn_of_length(task: &Collect, model: &Model) {
        let chunk_size = task.flags.ctx_size;
        if chunk_size > model.n_ctx_train() {
            log::warn(format_args!(
                "model was trained on only {} context tokens ({chunk_size} specified)",
                model.n_ctx_train()
            ));
        }
    }
}
