//! Chunks with activations that are not finite.

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::state::State;

use super::*;

const RUN: &str = "-m llama-nan-token.gguf -f calibration.txt -c 64 -b 64";

/// The chunk, from 1, that the program says it has discarded.
fn discarded(ran: &Ran) -> u64 {
    let (_, rest) = ran.stderr.split_once("1 chunk discarded, with activations that are not finite: ").unwrap();
    rest.lines().next().unwrap().parse().unwrap()
}

#[test]
fn a_bad_chunk_leaves_the_others_sums_as_they_are_without_it() {
    let bench = Bench::new(&["llama-nan-token"]);
    for accumulate in ["f32", "f64"] {
        let mut expected = None;
        for flags in ["--lanes 1", "--lanes 2", "--lanes 1 --state-frequency 7", "--lanes 2 --state-frequency 7"] {
            let run = format!("{RUN} --accumulate {accumulate}");
            let ran = bench.ok(&format!("{run} {flags}"));
            let bad = discarded(&ran);
            let says = format!("discarded chunk {bad}, tokens ");
            assert!(ran.stderr.contains(&says) && ran.stderr.contains("detected in blk.0."), "{}", ran.stderr);
            // The text up to it, and on top of that the text after it.
            let (bytes, entries) = expected.get_or_insert_with(|| {
                bench.ok(&format!("{run} --chunks {} -o before.gguf", bad - 1));
                bench.ok(&format!("{run} --chunk {bad} --in-file before.gguf -o both.gguf"));
                (bench.read("imatrix.gguf"), Imatrix::load(bench.path("both.gguf")).unwrap())
            });
            let found = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
            assert_eq!((found.chunk_count, found.entries.len()), (entries.chunk_count, entries.entries.len()));
            if accumulate == "f32" {
                assert!(found.entries == entries.entries, "{flags}");
            }
            // Exact sums were rounded in between.
            for (name, entry) in &found.entries {
                let without = &entries.entries[name];
                assert_eq!(entry.counts, without.counts, "{name}");
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
                assert!(entry.sum2.iter().zip(&without.sum2).all(near), "{name}: {flags}");
            }
            assert!(bench.read("imatrix.gguf") == *bytes, "{flags}");
        }
    }
}

#[test]
fn an_abort_on_a_bad_chunk_keeps_the_earlier_sums() {
    let bench = Bench::new(&["llama-nan-token"]);
    let whole = bench.ok(&format!("{RUN} -o whole.gguf"));
    let bad = discarded(&whole);
    for flags in ["--nan abort", "--max-bad-chunks 0", "--nan abort --lanes 2 --state-frequency 9"] {
        let ran = bench.run(&format!("{RUN} {flags}"));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(&format!("error: chunk {bad}, tokens ")), "{}", ran.stderr);
        assert!(ran.stderr.contains("is in 'imatrix.gguf.state'; hint: --resume continues it"), "{}", ran.stderr);
        let state = State::load(bench.path("imatrix.gguf.state")).unwrap();
        assert_eq!(state.progress.done.to_string(), format!("1-{}", bad - 1));
        let ran = bench.ok(&format!("{RUN} --resume"));
        assert_eq!((discarded(&ran), estimate(&ran)), (bad, estimate(&whole)));
        assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"), "{flags}");
    }
}
