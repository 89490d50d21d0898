//! The main job: a model over a text.

#[cfg(not(feature = "llama"))]
pub(crate) fn collect(_: &crate::config::Collect) -> anyhow::Result<()> {
    anyhow::bail!("this program was built without llama.cpp: it merges matrices and shows them, and collects none")
}

#[cfg(feature = "llama")]
pub(crate) use with_llama::collect;

#[cfg(feature = "llama")]
mod with_llama {
    use std::io::IsTerminal;
    use std::path::Path;
    use std::time::Instant;

    use anyhow::ensure;

    use llama_imatrix::calibration::{ChunkOptions, Chunks};
    use llama_imatrix::collect::{Collector, CollectorOptions, Due, Rule, Snapshot};
    use llama_imatrix::gguf;
    use llama_imatrix::imatrix::Imatrix;
    use llama_imatrix::llama::{Model, Tuning};
    use llama_imatrix::nextn::check_files;
    use llama_imatrix::run::{Lanes, Listener, Plan, RunOptions, run_with_nextn, sequences_per_batch};

    use crate::config::Collect;
    use crate::output::{print, print_saved, warn_of_gaps};
    use crate::{files, log, progress, settings};

    pub(crate) fn collect(task: &Collect) -> anyhow::Result<()> {
        let base = files::load_all(&task.merge.in_files, task.merge.chunk_sizes)?;
        check_sizes(&base, &task.model)?;
        check_files(&task.model, task.draft_model.as_deref())?;
        let backend = settings::start_backend(&task.flags)?;
        settings::warn_of_backend(&task.flags, backend);
        settings::set_priority(task);
        let model_options = settings::model_options(task, backend)?;
        let model = settings::load_model(task, &model_options)?;
        let draft = crate::nextn::load_draft(task, &model, &model_options)?;
        let nextn = crate::nextn::locate(task, &model, draft.as_ref())?;
        let tuning = settings::tuning(task, &model)?;
        let chunks = tokenize(task, &model)?;
        warn_of_length(task, &model);
        log::info(format_args!(
            "system_info: n_threads = {} (n_threads_batch = {}) | {}",
            task.n_threads,
            task.n_threads_batch,
            backend.system_info()
        ));

        let mut collector = Collector::new(&CollectorOptions {
            rule: Rule {
                min_rows: task.flags.min_rows.into(),
                process_output: task.flags.process_output,
                nextn: task.nextn,
            },
            chunk_size: task.flags.ctx_size,
            output_every: task.flags.output_frequency,
            copy_every: task.flags.save_frequency,
        });
        collector.continue_from(&base);
        let mut session = Session::new(task, base);
        if nextn.is_some() {
            session.base.n_layer_nextn = 1;
        }
        log::info(format_args!(
            "computing over {} chunks, n_ctx={}, batch_size={}, n_seq={}",
            chunks.len(),
            chunks.size(),
            task.n_batch,
            sequences_per_batch(task.n_batch, chunks.size())
        ));
        progress::start_chunks(chunks.len());
        let result =
            run_with_nextn(&model, nextn.as_ref(), &chunks, collector, &run_options(task, tuning), &mut session);
        progress::finish();
        session.print_held();
        let (collector, outcome) = result.map_err(|error| session.explain(error))?;
        print(format_args!("\n"));

        if let Some(estimate) = outcome.perplexity {
            match estimate.error {
                Some(error) => print(format_args!("Final estimate: PPL = {:.4} +/- {error:.5}\n", estimate.value)),
                None => print(format_args!("Unexpected negative standard deviation of log(prob)\n")),
            }
        }
        let imatrix = session.imatrix(&collector.snapshot());
        warn_of_gaps(&imatrix);
        if collector.inputs_of_too_few_rows() > 0 {
            log::warn(format_args!(
                "{} inputs of fewer than {} rows were passed over; --min-rows 1 collects them",
                collector.inputs_of_too_few_rows(),
                task.flags.min_rows
            ));
        }
        task.merge.output.save_final(&imatrix)?;
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

    fn run_options(task: &Collect, tuning: Tuning) -> RunOptions {
        RunOptions {
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

    fn tokenize(task: &Collect, model: &Model) -> anyhow::Result<Chunks> {
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
        Ok(Chunks::new(tokens, options)?)
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

    /// What goes on during a run: lines, saves, the bar.
    struct Session<'a> {
        task: &'a Collect,
        /// What was loaded, without its sums: they are in the collector.
        base: Imatrix,
        /// Perplexities that wait for the bar to go: on one terminal, the bar would be drawn over them.
        held: Option<String>,
        perplexity: Option<f64>,
        saved_chunks: Option<i32>,
    }

    impl<'a> Session<'a> {
        fn new(task: &'a Collect, mut base: Imatrix) -> Self {
            base.entries.clear();
            base.settle_chunk_size(task.merge.chunk_sizes.run);
            base.datasets.extend(task.dataset.clone());
            let one_terminal = progress::visible() && std::io::stdout().is_terminal();
            Self { task, base, held: one_terminal.then(String::new), perplexity: None, saved_chunks: None }
        }

        fn imatrix(&self, snapshot: &Snapshot) -> Imatrix {
            let mut imatrix = self.base.clone();
            imatrix.chunk_count = snapshot.chunks;
            imatrix.entries = snapshot.entries().map(|(name, entry)| (name.to_owned(), entry.clone())).collect();
            imatrix
        }

        fn print_held(&mut self) {
            if let Some(held) = self.held.as_mut().filter(|held| !held.is_empty()) {
                print(format_args!("{}", std::mem::take(held)));
            }
        }

        fn print_or_hold(&mut self, text: &str) {
            match &mut self.held {
                Some(held) => held.push_str(text),
                None => print(format_args!("{text}")),
            }
        }

        fn explain(&self, error: llama_imatrix::run::Error) -> anyhow::Error {
            let error = anyhow::Error::from(error);
            match self.saved_chunks {
                None => error,
                Some(chunks) => anyhow::anyhow!(
                    "{error:#}; the sums of the first {chunks} chunks are in '{}'",
                    self.task.merge.output.path().display()
                ),
            }
        }
    }

    impl Listener for Session<'_> {
        fn begins(&mut self, plan: &Plan) {
            if plan.no_perplexity {
                log::warn(format_args!("the model computes no logits, so there is no perplexity"));
            }
            if let Some(reason) = plan.all_logits {
                log::debug(format_args!("perplexity takes the logits of all positions: {reason}"));
            }
            log::debug(format_args!("lanes: {}", plan.lanes));
        }

        fn due(&mut self, snapshot: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            let imatrix = self.imatrix(snapshot);
            let due = &snapshot.due;
            let mut copies: Vec<Option<i32>> = due
                .iter()
                .map(|due| match due {
                    Due::Output => None,
                    Due::Copy(chunks) => Some(*chunks),
                })
                .collect();
            if log::verbosity() >= 1 {
                self.print_or_hold(&"\n".repeat(due.len()));
            }
            copies.dedup();
            for copy in copies {
                match self.task.merge.output.save(&imatrix, copy) {
                    Ok(()) if copy.is_none() => self.saved_chunks = Some(imatrix.chunk_count),
                    Ok(()) => {}
                    // The sums are still in memory and the next save may succeed.
                    Err(error) => log::warn(format_args!("{error:#}; the run goes on")),
                }
            }
            Ok(())
        }

        fn first_batch(&mut self, seconds: f32, n_chunks: usize, n_seq: usize) {
            let total = (seconds * n_chunks as f32 / n_seq as f32) as i32;
            log::info(format_args!("{seconds:.2} seconds per pass"));
            let (hours, rest) = (total / 3600, total % 3600);
            if hours > 0 {
                self.print_or_hold(&format!("{hours} hours "));
            }
            let rest = if hours > 0 { rest } else { total };
            self.print_or_hold(&format!("{:.2} minutes\n", f64::from(rest) / 60.0));
        }

        fn perplexity(&mut self, chunk: usize, value: f64) {
            self.perplexity = Some(value);
            self.print_or_hold(&format!("[{chunk}]{value:.4},"));
        }

        fn progress(&mut self, done: usize, _: usize) {
            progress::set_chunks(done, self.perplexity.map(|value| format!("PPL {value:.4}")).unwrap_or_default());
        }
    }
}
