//! `--fill-experts shown`: what it fills, what it leaves alone, and where it is refused.

use llama_imatrix::imatrix::{Fill, Filled, Imatrix};

use super::*;

/// Chunks of which every expert of qwen3moe but one sees tokens.
const RUN: &str = "-f calibration.txt -c 64 -b 64 --chunks 12";
/// The weight whose input is computed for the expert without tokens.
const DOWN: &str = "blk.1.ffn_down_exps.weight";
const UP: &str = "blk.1.ffn_up_exps.weight";

fn matrix(bench: &Bench, name: &str) -> Imatrix {
    Imatrix::read(bench.path(name)).unwrap()
}

#[test]
fn only_experts_below_the_limit_change_and_only_down_gets_its_own_sums() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = format!("-m qwen3moe.gguf {RUN}");
    bench.ok(&format!("{run} -o plain.gguf"));
    bench.ok(&format!("{run} -o layer.gguf --fill-experts layer"));
    let ran = bench.ok(&format!("{run} -o shown.gguf --fill-experts shown"));
    assert!(ran.stderr.contains("256 rows were shown to 1 experts in 1 weights"), "{}", ran.stderr);
    assert_eq!(bench.new_files(&["qwen3moe.gguf"]), ["layer.gguf", "plain.gguf", "shown.gguf"]);
    let [plain, layer, shown] = ["plain.gguf", "layer.gguf", "shown.gguf"].map(|name| matrix(&bench, name));
    let dead = support::DEAD_EXPERT as usize;
    for (name, entry) in &plain.entries {
        let found = &shown.entries[name];
        let row = entry.row_len().unwrap();
        for expert in 0..entry.counts.len() {
            let part = expert * row..(expert + 1) * row;
            let is_dead = name.starts_with("blk.1.") && name.contains("_exps") && expert == dead;
            let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            let as_in = |other: &Imatrix| {
                let other = &other.entries[name];
                same(&found.sum2[part.clone()], &other.sum2[part.clone()])
                    && same(&found.activations()[part.clone()], &other.activations()[part.clone()])
                    && found.counts[expert] == other.counts[expert]
            };
            assert_eq!(as_in(&plain), !is_dead, "{name} {expert}");
            // Gate and up read the layer's rows, whose mean is known.
            assert_eq!(as_in(&layer), name != DOWN || !is_dead, "{name} {expert}");
        }
    }
    let experts = |how| [(support::DEAD_EXPERT as u32, how)].into();
    let expected: Filled = [
        (DOWN.to_owned(), experts(Fill::Shown { rows: 256 })),
        (UP.to_owned(), experts(Fill::Layer)),
        ("blk.1.ffn_gate_exps.weight".to_owned(), experts(Fill::Layer)),
    ]
    .into();
    assert_eq!(shown.filled, expected);
    assert_eq!(shown.entries[DOWN].counts[dead], 1);
    assert!(shown.entries[DOWN].sum2[dead * 32..(dead + 1) * 32].iter().all(|&x| x > 0.0));
}

#[test]
fn lanes_and_threads_do_not_change_the_bytes() {
    for model in ["qwen3moe", "deepseek2", "gpt-oss"] {
        let bench = Bench::new(&[model]);
        let run = format!("-m {model}.gguf {RUN} --fill-experts shown --fill-below 200");
        bench.ok(&format!("{run} -o one.gguf --lanes 1 -t 1"));
        for flags in ["--lanes 2 -t 2", "--lanes 3 -t 1", "--lanes 1 -t 2"] {
            bench.ok(&format!("{run} -o other.gguf {flags}"));
            assert!(bench.read("other.gguf") == bench.read("one.gguf"), "{model} {flags}");
        }
        let filled = matrix(&bench, "one.gguf").filled;
        let shown = filled.values().flat_map(|experts| experts.values()).filter(|how| **how != Fill::Layer).count();
        assert!(shown > 1, "{model}: {filled:?}");
    }
}

#[test]
fn stats_check_and_report_say_how_experts_were_filled() {
    let bench = Bench::new(&["qwen3moe"]);
    bench.ok(&format!("-m qwen3moe.gguf {RUN} -o shown.gguf --fill-experts shown"));
    let how = "3 experts in 3 weights were filled: 2 from other experts, 1 from 256 rows that were shown to them";
    let check = bench.run("check qwen3moe.gguf shown.gguf --min-tokens 0 --format json");
    let document: serde_json::Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!((&document["matrix"]["filled_experts"], &document["matrix"]["shown_experts"]), (&3.into(), &1.into()));
    assert!(bench.run("check qwen3moe.gguf shown.gguf --min-tokens 0").stdout.contains(how));
    let stats = bench.ok("stats shown.gguf --by expert --format json");
    let document: serde_json::Value = serde_json::from_str(&stats.stdout).unwrap();
    let file = &document["files"][0];
    assert_eq!(file["shown"], serde_json::json!({ DOWN: { "5": 256 } }));
    assert_eq!(file["filled"][UP], serde_json::json!([5]));
    let note = |weight: &str| {
        let rows = file["experts"].as_array().unwrap();
        let row = rows.iter().find(|row| row["tensor"] == weight && row["expert"] == 5);
        row.unwrap()["note"].as_str().unwrap().to_owned()
    };
    assert_eq!((note(DOWN), note(UP)), ("shown".to_owned(), "filled".to_owned()));
    assert!(stats.stderr.contains(how), "{}", stats.stderr);
    bench.ok("report shown.gguf -o page.html");
    let page = String::from_utf8(bench.read("page.html")).unwrap();
    assert!(page.contains(how) && page.contains(r#""filled":[5]"#));
    // The list survives a merge.
    bench.ok("merge shown.gguf shown.gguf -o twice.gguf");
    assert_eq!(matrix(&bench, "twice.gguf").filled, matrix(&bench, "shown.gguf").filled);
}

#[test]
fn documents_and_several_sequences_are_sampled_too() {
    let bench = Bench::new(&["qwen3moe"]);
    for flags in ["-b 256 -ub 256", "--documents -b 128", "--keep-tail -b 128"] {
        bench.ok(&format!("-m qwen3moe.gguf -f calibration.txt -c 64 {flags} -o x.gguf --fill-experts shown"));
        let filled = matrix(&bench, "x.gguf").filled;
        assert_eq!(filled[DOWN], [(5, Fill::Shown { rows: 256 })].into(), "{flags}");
    }
}

#[test]
fn it_is_refused_where_it_is_not_possible() {
    let bench = Bench::new(&["qwen3moe", "llama"]);
    let run = format!("-m qwen3moe.gguf {RUN} -o x.gguf");
    bench.fails(
        &format!("-m llama.gguf {RUN} -o x.gguf --fill-experts shown"),
        &["--fill-experts shown: the model has no experts", "hint: "],
    );
    bench.fails(
        &format!("-m qwen3moe.gguf {RUN} -o x.state --shard 0/2 --fill-experts shown"),
        &["--fill-experts cannot be combined with --shard", "hint: "],
    );
    bench.fails(
        "-m qwen3moe.gguf -f calibration.txt -c 64 -b 256 -ub 2 -o x.gguf --fill-experts shown",
        &["micro-batches of 2 tokens are too small", "--fill-experts shown", "--ubatch-size"],
    );
    bench.ok(&run);
    bench.fails("--in-file x.gguf -o y.gguf --fill-experts shown", &["--fill-experts shown needs a model and a text"]);
    bench.fails("merge x.gguf -o y.gguf --fill-experts shown", &["needs the model", "hint: --fill-experts layer"]);
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = format!("-m qwen3moe.gguf {RUN} --lanes 1 -ofreq 0 --fill-below 100 --fill-experts shown");
    bench.ok(&format!("{run} -o whole.gguf"));
    let run = format!("{run} -o x.gguf --state-frequency 3");
    // Inside the third save of the state; and between the matrix that is saved at the end and the one with shown experts.
    for stop in ["rename:3", "end:5"] {
        let mut command = bench.command(&run);
        command.env("LLAMA_IMATRIX_TEST_STOP_SAVE", stop);
        assert_ne!(super::run(&mut command).code, Some(0), "{stop}");
        if stop == "end:5" {
            let filled = matrix(&bench, "x.gguf").filled;
            assert!(filled.values().flat_map(|experts| experts.values()).all(|how| *how == Fill::Layer), "{filled:?}");
        }
        let ran = bench.ok(&format!("{run} --resume"));
        assert!(ran.stderr.contains("resuming from 'x.gguf.state'"), "{stop}: {}", ran.stderr);
        assert!(bench.read("x.gguf") == bench.read("whole.gguf"), "{stop}");
    }
}

#[test]
fn a_state_without_a_sample_is_not_resumed_with_the_flag() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = format!("-m qwen3moe.gguf {RUN} -o x.gguf --state-frequency 1");
    let stop = |run: &str| {
        let mut command = bench.command(run);
        command.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "rename:4");
        assert_ne!(super::run(&mut command).code, Some(0));
    };
    stop(&run);
    let ran = bench.run(&format!("{run} --resume --fill-experts shown"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("did not sample the rows") && ran.stderr.contains("hint: "), "{ran:?}");
    bench.ok(&format!("{run} --resume"));
    let bytes = bench.read("x.gguf");
    // The other way round the sample is dropped, and nothing else.
    stop(&format!("{run} --fill-experts shown"));
    bench.ok(&format!("{run} --resume"));
    assert!(bench.read("x.gguf") == bytes);
}
