//! `--convergence` and `--stop-when-converged`: the halves of the text, compared.

use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::imatrix::{Imatrix, Loaded};

use super::*;

/// A run whose batches are chunks, saved every four.
const RUN: &str = "-f calibration.txt -c 64 -b 64 --shuffle -ofreq 4";

fn file(bench: &Bench, name: &str) -> ConvergenceFile {
    ConvergenceFile::load(&bench.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_matrix_has_the_bytes_of_a_run_without_convergence_on_any_number_of_lanes() {
    for (model, flags) in [("llama", ""), ("qwen3moe", ""), ("deepseek2", "--accumulate f64"), ("lfm2", "-b 256")] {
        let bench = Bench::new(&[model]);
        let run = format!("-m {model}.gguf {RUN} --chunks 19 {flags}");
        bench.ok(&format!("{run} -o without.gguf"));
        assert_eq!(bench.new_files(&[&format!("{model}.gguf")]), ["without.gguf"]);
        for lanes in [1, 2, 3] {
            let ran = bench.ok(&format!("{run} -o {lanes}.gguf --lanes {lanes} --convergence"));
            assert!(bench.read(&format!("{lanes}.gguf")) == bench.read("without.gguf"), "{model}, {lanes} lanes");
            assert!(ran.stderr.contains("convergence: lowest cosine of the halves 0."), "{}", ran.stderr);
            let (one, found) = (bench.read("1.convergence.json"), bench.read(&format!("{lanes}.convergence.json")));
            assert!(one == found, "{model}, {lanes} lanes");
        }
        let file = file(&bench, "1.convergence.json");
        let matrix = Imatrix::load(bench.path("without.gguf")).unwrap();
        assert!(file.is_of(&matrix.entries, &matrix.filled), "{model}");
        let chunks: Vec<_> = file.curve.iter().map(|point| point.chunks).collect();
        if flags.is_empty() {
            assert_eq!(chunks, [4, 8, 12, 16, 19], "{model}");
        }
        assert_eq!(chunks.last(), Some(&19), "{model}");
        // Each expert for itself.
        for weight in &file.weights {
            let counts = &matrix.entries[&weight.weight].counts;
            assert_eq!(weight.experts.len(), if counts.len() > 1 { counts.len() } else { 0 }, "{}", weight.weight);
            for (expert, &count) in weight.experts.iter().zip(counts) {
                let rows = expert.map_or(count, |expert| expert.rows.iter().sum());
                assert_eq!(rows, count, "{}", weight.weight);
            }
        }
    }
}

/// Batches of four chunks: the first, third, .. are one half.
#[test]
fn the_halves_are_the_runs_over_their_batches_alone() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 256 --accumulate f64";
    bench.ok(&format!("{run} --chunks 12 --convergence"));
    let mut parts = Vec::new();
    for batch in 0..3 {
        bench.ok(&format!("{run} --chunk {} --chunks 4 -o {batch}.gguf", 4 * batch));
        parts.push(Imatrix::load(bench.path(&format!("{batch}.gguf"))).unwrap());
    }
    for weight in &file(&bench, "imatrix.convergence.json").weights {
        let mean = |parts: &[&Loaded]| -> Vec<f64> {
            let entries: Vec<_> = parts.iter().map(|part| &part.entries[&weight.weight]).collect();
            let rows: i64 = entries.iter().map(|entry| entry.counts[0]).sum();
            let column = |i: usize| entries.iter().map(|entry| f64::from(entry.sum2[i])).sum::<f64>() / rows as f64;
            (0..entries[0].sum2.len()).map(column).collect()
        };
        let (a, b) = (mean(&[&parts[0], &parts[2]]), mean(&[&parts[1]]));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        let found = weight.agreement.unwrap();
        assert_eq!(found.rows, [512, 256], "{}", weight.weight);
        assert!((found.cosine - cosine).abs() < 2e-7, "{}: {}, expected {cosine}", weight.weight, found.cosine);
    }
}

#[cfg(unix)]
#[test]
fn a_run_that_was_killed_goes_on_to_the_same_convergence() {
    let bench = Bench::new(&["qwen3moe"]);
    for flags in ["", "--accumulate f64"] {
        let run = format!("-m qwen3moe.gguf {RUN} --chunks 14 --convergence {flags}");
        bench.ok(&format!("{run} -o whole.gguf"));
        let run = format!("{run} --state-frequency 3");
        let killed_at = |save: usize, run: &str| {
            let mut command = bench.command(run);
            command.env("LLAMA_IMATRIX_TEST_STOP_SAVE", format!("rename:{save}"));
            super::run(&mut command).code != Some(0)
        };
        // Saves of the state, the matrix and the convergence file. Where writing is slow, later states take the place of earlier
        // ones, so it is not known when the first one is saved.
        let state = bench.path("imatrix.gguf.state");
        let first = (2..30).take_while(|_| !state.exists()).all(|save| killed_at(save, &run));
        assert!(first && killed_at(2, &format!("{run} --resume")), "the runs have fewer saves");
        let ran = bench.ok(&format!("{run} --resume"));
        assert!(ran.stderr.contains("resuming from"), "{}", ran.stderr);
        assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"), "{flags}");
        let (found, expected) = (bench.read("imatrix.convergence.json"), bench.read("whole.convergence.json"));
        assert_eq!(String::from_utf8(found).unwrap(), String::from_utf8(expected).unwrap(), "{flags}");
    }
}

#[test]
fn a_state_without_halves_is_not_resumed_with_convergence() {
    let bench = Bench::new(&["llama"]);
    let run = format!("-m llama.gguf {RUN} --chunks 9 --state-frequency 1");
    let stop = |run: &str| {
        let mut command = bench.command(run);
        command.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "rename:4");
        assert_ne!(super::run(&mut command).code, Some(0));
    };
    stop(&run);
    let ran = bench.run(&format!("{run} --resume --convergence"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("did not keep the halves of the text") && ran.stderr.contains("hint:"), "{ran:?}");
    bench.ok(&format!("{run} --resume"));
    let bytes = bench.read("imatrix.gguf");
    // The other way round the halves are dropped, and nothing else.
    stop(&format!("{run} --convergence"));
    bench.ok(&format!("{run} --resume"));
    assert!(bench.read("imatrix.gguf") == bytes);
}

#[test]
fn a_run_stops_at_the_first_save_with_the_requested_cosine() {
    let bench = Bench::new(&["llama", "qwen3moe"]);
    let run = format!("-m llama.gguf {RUN} -ofreq 2");
    bench.ok(&format!("{run} --convergence -o whole.gguf"));
    let curve = file(&bench, "whole.convergence.json").curve;
    // The first point that is higher than all before it by a margin, and not the last.
    let highest = |n: usize| curve[..n].iter().map(|point| point.cosine).fold(0.0, f64::max);
    let at = (2..curve.len() - 1).find(|&n| curve[n].cosine > highest(n) + 1e-4).expect("the curve rises");
    let goal = f64::midpoint(highest(at), curve[at].cosine);

    let ran = bench.ok(&format!("{run} --stop-when-converged {goal:.9} --lanes 2"));
    assert!(ran.stderr.contains("--lanes is ignored"), "{}", ran.stderr);
    let says = format!("the halves of every weight have a cosine of at least {goal:.9}");
    assert!(ran.stderr.contains(says.trim_end_matches('0')), "{}", ran.stderr);
    assert_eq!(file(&bench, "imatrix.convergence.json").curve, curve[..=at]);
    assert!(!bench.path("imatrix.gguf.state").exists(), "it is complete");
    bench.ok(&format!("{run} --chunks {} -o same.gguf", curve[at].chunks));
    assert!(bench.read("imatrix.gguf") == bench.read("same.gguf"), "the bytes of a run over those chunks");

    let ran = bench.ok(&format!("{run} --chunks 6 --stop-when-converged 0.999999999"));
    assert!(ran.stderr.contains("the text ended before the halves of every weight had a cosine of"), "{}", ran.stderr);
    // With both goals, the later one decides.
    let run = format!("-m qwen3moe.gguf {RUN} --chunks 8");
    bench.ok(&format!("{run} --stop-when-converged 0.000001 --stop-when-covered 100000 -o both.gguf"));
    assert_eq!(Imatrix::load(bench.path("both.gguf")).unwrap().chunk_count, 8);
    bench.ok(&format!("{run} --stop-when-converged 0.000001 -o one.gguf"));
    assert_eq!(Imatrix::load(bench.path("one.gguf")).unwrap().chunk_count, 4);
}

#[test]
fn shards_add_up_to_the_convergence_of_one_run() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = "-m qwen3moe.gguf -f calibration.txt -c 64 -b 128 --chunks 21 --accumulate f64 --shuffle";
    bench.ok(&format!("{run} --convergence -o whole.gguf"));
    for shard in 0..4 {
        bench.ok(&format!("{run} --shard {shard}/4 --convergence"));
    }
    let states: Vec<String> = (0..4).map(|shard| format!("imatrix.{shard}-of-4.state")).collect();
    let ran = bench.ok(&format!("merge {} -o merged.gguf", states.join(" ")));
    assert!(ran.stderr.contains("convergence: lowest cosine of the halves"), "{}", ran.stderr);
    assert!(bench.read("merged.gguf") == bench.read("whole.gguf"));
    let (merged, whole) = (file(&bench, "merged.convergence.json"), file(&bench, "whole.convergence.json"));
    assert_eq!(merged.weights, whole.weights);
    // The curve of a shard is not that of the run.
    assert_eq!(merged.curve, whole.curve[whole.curve.len() - 1..]);

    bench.ok(&format!("{run} --shard 2/4 -o without.state"));
    let states = states.join(" ").replace("imatrix.2-of-4.state", "without.state");
    let ran = bench.ok(&format!("merge {states} -o gap.gguf"));
    assert!(ran.stderr.contains("'without.state' does not have the halves of its text"), "{}", ran.stderr);
    assert!(bench.read("gap.gguf") == bench.read("whole.gguf") && !bench.path("gap.convergence.json").exists());
}

#[test]
fn flags_that_leave_no_halves_are_refused() {
    let bench = Bench::new(&["llama"]);
    let run = format!("-m llama.gguf {RUN} --chunks 3");
    bench.ok(&format!("{run} -o earlier.gguf"));
    for (flags, says) in [
        ("--convergence --in-file earlier.gguf", "--convergence cannot be combined with --in-file"),
        ("--stop-when-converged 0.9 --in-file earlier.gguf", "--stop-when-converged cannot be combined with --in-file"),
        ("--stop-when-converged 0.9 --shard 0/2", "a shard does not know"),
        ("--stop-when-converged 0.9 -ofreq 0", "--output-frequency 0"),
        ("--stop-when-converged 1", "expected a number between 0 and 1"),
        ("--stop-when-converged 95%", "expected a number between 0 and 1"),
    ] {
        bench.fails(&format!("{run} {flags}"), &[says]);
    }
    bench.fails("--in-file earlier.gguf --convergence -o x.gguf", &["--convergence needs a model and a text"]);
    bench.write("imatrix.convergence.json", b"my notes");
    bench.fails(&format!("{run} --convergence"), &["is not a convergence file", "hint:"]);
    let ran = bench.ok(&format!("{run} --chunks 1 --convergence -o short.gguf"));
    assert!(ran.stderr.contains("fewer than two batches") && !bench.path("short.convergence.json").exists());
    let ran = bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2 --convergence -o ordered.gguf");
    assert!(ran.stderr.contains("--convergence without --shuffle"), "{}", ran.stderr);
}

#[test]
fn check_and_report_quote_the_file_of_this_matrix_only() {
    let bench = Bench::new(&["llama"]);
    let run = format!("-m llama.gguf {RUN}");
    bench.ok(&format!("{run} --chunks 9 --convergence"));
    let check = bench.run("check llama.gguf imatrix.gguf");
    let last = file(&bench, "imatrix.convergence.json").last().cloned().unwrap();
    assert!(check.stdout.contains(&format!("halves: {}", last.describe())), "{check:?}");
    let quoted = format!("; lowest cosine of the halves of its text {:.4} ({})", last.cosine, last.weight);
    assert!(check.stdout.lines().last().unwrap().ends_with(&quoted), "{check:?}");
    let json = bench.run("check llama.gguf imatrix.gguf --format json").stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["convergence"]["weight"], last.weight.as_str());
    bench.ok("report imatrix.gguf -o with.html");
    let page = |name: &str| String::from_utf8(bench.read(name)).unwrap();
    assert!(page("with.html").contains("\"convergence\":[{\"chunks\":4,"), "the curve is in the page");

    // A later run without the flag leaves the file of the earlier one.
    bench.ok(&format!("{run} --chunks 5"));
    let check = bench.run("check llama.gguf imatrix.gguf");
    assert!(check.stderr.contains("is of another run than 'imatrix.gguf'"), "{check:?}");
    assert!(!check.stdout.contains("halves"), "{check:?}");
    let ran = bench.ok("report imatrix.gguf -o without.html");
    assert!(ran.stderr.contains("is of another run"), "{}", ran.stderr);
    assert!(page("without.html").contains("\"convergence\":null"));
}

#[test]
fn stats_shows_how_the_halves_of_each_weight_and_expert_agree() {
    let bench = Bench::new(&["qwen3moe"]);
    bench.ok(&format!("-m qwen3moe.gguf {RUN} --chunks 16 --convergence -o with.gguf"));
    bench.ok(&format!("-m qwen3moe.gguf {RUN} --chunks 16 -o without.gguf"));
    let file = file(&bench, "with.convergence.json");
    let stats = |args: &str| -> serde_json::Value {
        serde_json::from_str(&bench.ok(&format!("stats {args} --by expert --format json")).stdout).unwrap()
    };
    let document = &stats("with.gguf without.gguf")["files"];
    let last = file.last().unwrap();
    assert_eq!(document[0]["convergence"]["cosine"].as_f64(), Some(last.cosine));
    assert!(document[1].get("convergence").is_none());
    let rows = document[0]["tensors"].as_array().unwrap();
    assert_eq!(rows.len(), file.weights.len());
    for (row, weight) in rows.iter().map(|row| (row, row["tensor"].as_str().unwrap())) {
        let found = file.weights.iter().find(|found| found.weight == weight).unwrap();
        let agreement = found.agreement.unwrap();
        assert_eq!(row["halves_cosine"].as_f64(), Some(agreement.cosine), "{weight}");
        assert_eq!(row["relative_error"].as_f64(), Some(agreement.relative_error), "{weight}");
    }
    let experts = document[0]["experts"].as_array().unwrap();
    let of = |expert: i64| {
        let row = experts.iter().find(|row| row["tensor"] == "blk.1.ffn_down_exps.weight" && row["expert"] == expert);
        row.unwrap()["halves_cosine"].as_f64()
    };
    let weight = file.weights.iter().find(|found| found.weight == "blk.1.ffn_down_exps.weight").unwrap();
    assert_eq!((of(0), of(5)), (Some(weight.experts[0].unwrap().cosine), None));
    // Each file has the same columns, empty where there is no file; without any file there are none.
    assert!(document[1]["tensors"][0]["halves_cosine"].is_null());
    assert!(stats("without.gguf")["files"][0]["tensors"][0].get("halves_cosine").is_none());
    let table = bench.ok("stats with.gguf --sort halves_cosine --ascending --by tensor --columns halves_cosine").stdout;
    let lowest = format!("{:.4}", last.cosine);
    assert!(table.lines().find(|line| line.contains("blk.")).unwrap().contains(&lowest), "{lowest} is first\n{table}");
    let csv = bench.ok("stats with.gguf --format csv").stdout;
    assert!(csv.lines().next().unwrap().ends_with(",halves_cosine,relative_error"), "{csv}");
}
