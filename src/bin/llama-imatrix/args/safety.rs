//! Runs that are interrupted, sharded, or fail.

use llama_imatrix::state::Accumulate;

use super::bits::Key;
use super::choices::{Choice, Nan};
use super::table::{Flag, Set};
use llama_imatrix::options::SumOn;

pub(super) static FLAGS: &[Flag] = &[
    Flag::switch(&["--resume"], "Continue the run in FNAME.state, where FNAME is the output", |flags| {
        flags.resume = true;
    })
    .ours()
    .same_bits(),
    Flag::int(&["--state-frequency"], "Save the run's state every N chunks (by time)", |flags, n| {
        flags.state_frequency = Some(u32::try_from(n).ok().filter(|&n| n > 0).ok_or(format!("{n} is below 1"))?);
        Ok(())
    })
    .ours()
    .same_bits(),
    Flag::int(&["--state-interval"], "Save the run's state every N seconds; 0: never (60)", |flags, n| {
        flags.state_interval = u32::try_from(n).map_err(|_| format!("{n} is below 0"))?;
        Ok(())
    })
    .ours()
    .same_bits(),
    Flag::new(
        &["--accumulate"],
        "f32|f64",
        "Add up in f32 as llama.cpp does, or with f64 exactly, in any order of chunks (f32)",
        Set::Choice(Accumulate::WORDS, |flags, kind| {
            flags.accumulate = Some(Accumulate::parse(kind)?);
            Ok(())
        }),
    )
    .ours()
    .key(Key::Accumulate),
    Flag::new(
        &["--sum-on"],
        "auto|device|host",
        "Sum activations on the device if they are in its memory (auto), always by a graph on the device, or on the host after \
         transferring them",
        Set::Choice(SumOn::WORDS, |flags, place| {
            flags.sum_on = SumOn::parse(place)?;
            Ok(())
        }),
    )
    .ours()
    .named("sum-on"),
    Flag::new(
        &["--shard"],
        "I/N|auto",
        "Evaluate part I of N of the chunks, counted from 0, and write a state file for `llama-imatrix merge`: FNAME, or \
         NAME.I-of-N.state if FNAME is NAME.gguf; auto takes I and N from the variables of Slurm or Kubernetes",
        Set::Text(|flags, value| {
            flags.shard = Some(value.to_owned());
            Ok(())
        }),
    )
    .ours()
    .key(Key::Shard),
    Flag::new(
        &["--nan"],
        "discard|abort",
        "On chunks with non-finite activations: discard them, or abort the run (discard)",
        Set::Choice(Nan::WORDS, |flags, what| {
            flags.nan = Nan::parse(what)?;
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
    Flag::int(&["--max-bad-chunks"], "Abort the run after more than N discarded chunks (1 % of all, at least 1)", |flags, n| {
        flags.max_bad_chunks = Some(usize::try_from(n).map_err(|_| format!("{n} is below 0"))?);
        Ok(())
    })
    .ours()
    .same_bits(),
    Flag::int(&["--stop-when-covered"], "Stop once every expert has seen N tokens", |flags, n| {
        flags.stop_when_covered = Some(u64::try_from(n).ok().filter(|&n| n > 0).ok_or(format!("{n} is below 1"))?);
        Ok(())
    })
    .ours()
    .same_bits(),
    Flag::switch(
        &["--convergence"],
        "Also compare the even and odd batches at each save: cosine and standard error per weight and expert, in \
         FNAME.convergence.json if the output is FNAME.gguf",
        |flags| flags.convergence = true,
    )
    .ours()
    .same_bits(),
    Flag::new(
        &["--stop-when-converged"],
        "X",
        "Stop at the first save at which the even and odd batches have a cosine of at least X for every weight, as in 0.995; \
         implies --convergence. With --stop-when-covered, stop once both are reached",
        Set::Text(|flags, value| {
            let cosine = value.parse::<f64>().ok().filter(|cosine| *cosine > 0.0 && *cosine < 1.0);
            flags.stop_when_converged = Some(cosine.ok_or("expected a number between 0 and 1, as in 0.995")?);
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
];
