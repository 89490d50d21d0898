//! The main job: a model over a text.

#[cfg(not(feature = "llama"))]
pub(crate) fn collect(_: &crate::config::Collect) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("this program was built without llama.cpp: it merges matrices and shows them, and collects none")
}

#[cfg(feature = "llama")]
pub(crate) use with_llama::collect;

#[cfg(feature = "llama")]
mod with_llama {
    use std::path::Path;
    use std::process::ExitCode;
    use std::time::Instant;

    use anyhow::ensure;

    use llama_imatrix::SessionOptions;
    use llama_imatrix::calibration::{ChunkOptions, Chunks};
    use llama_imatrix::collect::{Collector, Earlier, Rule};
    use llama_imatrix::gguf;
    use llama_imatrix::imatrix::{Imatrix, remove_leftovers};
    use llama_imatrix::llama::{Model, Tuning};
    use llama_imatrix::nextn::check_files;
    use llama_imatrix::run::{Lanes, Outcome, RunOptions, Start, sequences_per_batch};
    use llama_imatrix::state::Digest;

    use crate::config::Collect;
    use crate::lock::Lock;
    use crate::output::{print, print_estimate, print_saved, warn_of_discarded, warn_of_gaps};
    use crate::session::Session;
    use crate::signals::Signals;
    use crate::state_file::StateFile;
    use crate::{disk, files, log, progress, settings};

    pub(crate) fn collect(task: &Collect) -> anyhow::Result<ExitCode> {
        let mut base = files::load_all(&task.merge.in_files, task.merge.chunk_sizes)?;
        check_sizes(&base, &task.model)?;
        check_files(&task.model, task.draft_model.as_deref())?;
        disk::check_room(task, None)?;
        Lock::check(task.merge.output.path())?;
        let signals = Signals::register()?;
        let backend = settings::start_backend(&task.flags)?;
        settings::warn_of_backend(&task.flags, backend);
        settings::set_priority(task);
        let model_options = settings::model_options(task, backend)?;
        let model = settings::load_model(task, &model_options)?;
        let draft = crate::nextn::load_draft(task, &model, &model_options)?;
        let nextn = crate::nextn::locate(task, &model, draft.as_ref())?;
        let tuning = settings::tuning(task, &model)?;
        let (chunks, digest, n_tokens) = tokenize(task, &model)?;
        disk::check_room(task, Some(&chunks))?;
        warn_of_length(task, &model);
        log::info(format_args!(
            "system_info: n_threads = {} (n_threads_batch = {}) | {}",
            task.n_threads,
            task.n_threads_batch,
            backend.system_info()
        ));

        let earlier = Earlier::from_imatrix(&base, task.accumulate)?;
        base.entries.clear();
        base.settle_chunk_size(task.merge.chunk_sizes.run);
        base.datasets.extend(task.dataset.clone());
        if nextn.is_some() {
            base.n_layer_nextn = 1;
        }
        let _lock = lock_output(task)?;
        let mut state_file = StateFile::new(task, backend, &digest, n_tokens, &chunks, &base)?;
        let start = begin(task, state_file.as_mut(), earlier)?;
        log::info(format_args!(
            "computing over {} chunks, n_ctx={}, batch_size={}, n_seq={}",
            chunks.len(),
            chunks.size(),
            task.n_batch,
            sequences_per_batch(task.n_batch, chunks.size())
        ));
        signals.register_ending()?;
        let run = run_options(task, tuning, &chunks, &signals);
        if run.part.as_ref().is_some_and(std::ops::Range::is_empty) {
            log::warn(format_args!("shard {} has no chunk: there are more shards than batches", task.shard));
        }
        let options = SessionOptions {
            rule: Rule {
                min_rows: task.flags.min_rows.into(),
                process_output: task.flags.process_output,
                nextn: task.nextn,
            },
            output_every: if task.shard.is_whole() { task.flags.output_frequency } else { 0 },
            copy_every: if task.shard.is_whole() { task.flags.save_frequency } else { 0 },
            accumulate: task.accumulate,
            run,
            ..SessionOptions::default()
        };
        let evaluation = llama_imatrix::Session::new(&model, options).with_nextn(nextn);
        let mut session = Session::new(task, base, state_file, signals);
        progress::start_chunks(chunks.len());
        let result = evaluation.run(&chunks, start, &mut session);
        progress::finish();
        session.print_held();
        let (collector, outcome) = result.map_err(|error| session.explain(error))?;
        if outcome.stopped {
            return session.stopped(&collector, &outcome);
        }
        print(format_args!("\n"));
        finish(task, &collector, &outcome, &mut session)?;
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
    ) -> anyhow::Result<()> {
        if let Some(estimate) = outcome.perplexity {
            print_estimate(&estimate);
        }
        warn_of_discarded(&outcome.position.discarded);
        if collector.inputs_of_too_few_rows() > 0 {
            log::warn(format_args!(
                "{} inputs of fewer than {} rows were passed over; --min-rows 1 collects them",
                collector.inputs_of_too_few_rows(),
                task.flags.min_rows
            ));
        }
        let snapshot = collector.snapshot();
        if task.shard.is_whole() {
            let entries: Vec<_> = snapshot.entries().collect();
            let imatrix = session.imatrix(snapshot.chunks, &entries);
            warn_of_gaps(&imatrix);
            if let Err(error) = task.merge.output.save_final(&imatrix) {
                return Err(session.keep_state(error, &snapshot, &outcome.position));
            }
            session.remove_state();
        } else {
            session.save_shard(&snapshot, &outcome.position)?;
        }
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

    /// Finds matrices of another model now, not in the first batch. What the model's file does not hold (another shard
    /// may) and what cannot be read is left to llama.cpp and the collector.
    fn check_sizes(base: &Imatrix, model: &Path) -> anyhow::Result<()> {
        if base.entries.is_empty() {
            return Ok(());
        }
        let Ok(model) = gguf::File::open(model) else { return Ok(()) };
        for (name, entry) in &base.entries {
            let Some(tensor) = model.tensor(name) else { continue };
            let [channels, _, n2, n3] = tensor.shape;
            let expected = channels.saturating_mul(n2).saturating_mul(n3);
            ensure!(
                entry.sum2.len() as u64 == expected,
                "inconsistent size of '{name}': the --in-file has {} values, the model's inputs {expected} \
                 ({channels} channels, {} matrices)",
                entry.sum2.len(),
                n2.saturating_mul(n3)
            );
        }
        Ok(())
    }

    fn run_options(task: &Collect, tuning: Tuning, chunks: &Chunks, signals: &Signals) -> RunOptions {
        let n_seq = sequences_per_batch(task.n_batch, chunks.size());
        let part = task.shard.range(chunks.len() as u64, n_seq as u64);
        let max_bad_chunks = match task.flags.max_bad_chunks {
            _ if task.flags.nan_aborts => 0,
            Some(chunks) => chunks,
            None => ((part.end - part.start) as usize / 100).max(1),
        };
        RunOptions {
            part: Some(part.start as usize..part.end as usize),
            keep_likelihoods: !task.shard.is_whole(),
            max_bad_chunks,
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

    /// The text's chunks, and what its tokens are known by.
    fn tokenize(task: &Collect, model: &Model) -> anyhow::Result<(Chunks, Digest, usize)> {
        let started = Instant::now();
        log::info(format_args!("tokenizing the input .."));
        let pieces = model.vocab().pieces(&task.text);
        if pieces.len() > 1 {
            progress::start_bytes("tokenizing".to_owned(), Some(task.text.len() as u64));
        } else {
            progress::spin(format!("tokenizing {:.1} MB", task.text.len() as f64 / 1e6));
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let tokens = pieces.tokenize(task.flags.parse_special, threads, &|done| progress::set_bytes(done as u64));
        progress::finish();
        let tokens = tokens?;
        log::info(format_args!("tokenization took {:.1} ms", started.elapsed().as_secs_f64() * 1e3));
        let skip = usize::try_from(task.flags.chunk)?;
        if skip > 0 {
            let size = task.flags.ctx_size as usize;
            log::info(format_args!("removing initial {skip} chunks ({} tokens)", skip.saturating_mul(size)));
        }
        let options = ChunkOptions {
            size: task.flags.ctx_size as usize,
            skip,
            limit: usize::try_from(task.flags.chunks).ok(),
            keep_tail: task.flags.keep_tail,
        };
        let (digest, n_tokens) = (Digest::of_tokens(&tokens), tokens.len());
        Ok((Chunks::new(tokens, options)?, digest, n_tokens))
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
