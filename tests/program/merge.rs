//! `merge`: shards and matrices.

use llama_imatrix::imatrix::Imatrix;

use super::*;

fn states(count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("imatrix.{i}-of-{count}.state")).collect();
    names.join(" ")
}

fn shards(bench: &Bench, run: &str, count: usize) {
    for i in 0..count {
        bench.ok(&format!("{run} --shard {i}/{count}"));
    }
}

#[test]
fn shards_make_one_run_to_the_byte() {
    for (model, batch) in [("llama", 64), ("qwen3moe", 128), ("lfm2", 64)] {
        let bench = Bench::new(&[model]);
        let run = format!("-m {model}.gguf -f calibration.txt -c 64 -b {batch} --chunks 21 --accumulate f64");
        let whole = bench.ok(&format!("{run} -o whole.gguf"));
        shards(&bench, &run, 4);
        let ran = bench.ok(&format!("merge {} -o merged.gguf", states(4)));
        assert!(bench.read("merged.gguf") == bench.read("whole.gguf"), "{model}");
        assert_eq!(ran.stdout, format!("{}\n", estimate(&whole)), "{model}");
        // In any order, into the default place.
        bench.ok("merge imatrix.2-of-4.state imatrix.0-of-4.state imatrix.3-of-4.state imatrix.1-of-4.state");
        assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"), "{model}");
    }
}

#[test]
fn the_shard_is_read_from_the_schedulers_environment() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 6 --accumulate f64 --shard auto";
    bench.fails(run, &["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"]);
    for (variables, name) in [
        ([("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "3")], "imatrix.1-of-3.state"),
        ([("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "3")], "imatrix.2-of-3.state"),
    ] {
        let ran = super::run(bench.command(run).envs(variables));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(bench.path(name).exists(), "{name}");
    }
}

/// The commands of the manifests in `examples/cluster/kubernetes`, as they are. Of a text of two batches, two of four
/// shards have nothing to do.
#[cfg(unix)]
#[test]
fn the_kubernetes_jobs_are_one_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster/kubernetes");
    let manifest = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let value = |manifest: &str, key: &str| {
        let line = manifest.lines().map(str::trim).find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_matches([' ', '"']).to_owned()
    };
    let command = |manifest: &str| {
        let list = value(manifest, "command: [");
        list.trim_end_matches(']').split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let collect = manifest("collect.yaml");
    let completions = value(&collect, "completions:");
    assert_eq!(value(&collect, "value:"), completions, "JOB_COMPLETIONS");

    let bench = Bench::new(&[]);
    bench.write("model.gguf", &support::build("llama"));
    bench.ok("-m model.gguf -f calibration.txt --accumulate f64 -o whole.gguf");
    let path = format!("{}:{}", program().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let start = |words: &[String], index: u32| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(bench.path("")).env("PATH", &path);
        command.env("JOB_COMPLETION_INDEX", index.to_string()).env("JOB_COMPLETIONS", &completions);
        super::run(&mut command)
    };
    let mut idle = 0;
    for index in 0..completions.parse().unwrap() {
        for _ in 0..2 {
            let ran = start(&command(&collect), index); // the second time there is nothing left to do
            assert_eq!(ran.code, Some(0), "{ran:?}");
            if ran.stderr.contains("has no chunk: there are more shards than batches") {
                assert_eq!(ran.stdout.trim(), "", "no perplexity of nothing");
                idle += 1;
            }
        }
    }
    assert_eq!(idle, 4, "two shards, twice");
    let ran = start(&command(&manifest("merge.yaml")), 0);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"));
}

#[test]
fn shards_that_are_not_a_whole_are_refused() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 12 --no-ppl --accumulate f64";
    shards(&bench, run, 3);
    bench.ok(&format!("{run} -o whole.gguf"));
    bench.write("imatrix.gguf", EARLIER_MATRIX);
    let [zero, one, two] = ["imatrix.0-of-3.state", "imatrix.1-of-3.state", "imatrix.2-of-3.state"];
    let all = states(3);
    bench.fails(&format!("merge {zero} {two}"), &["chunks 5-8 of 12 are in none of the files", "shard 1/3"]);
    bench.fails(&format!("merge {all} {one}"), &[&format!("{one} and {one} both hold chunks 5-8")]);
    bench.ok(&format!("{run} --shard 1/2"));
    bench.fails(
        &format!("merge {all} imatrix.1-of-2.state"),
        &[&format!("{one} and imatrix.1-of-2.state both hold chunks 7-8")],
    );
    bench.ok(&format!("{run} --process-output --shard 1/3 -o other.state"));
    bench.fails(
        &format!("merge {zero} other.state {two}"),
        &[&format!("{zero} and other.state are of different runs"), "--process-output is 'false' before, 'true' now"],
    );
    let mut stopped =
        bench.command("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 12 --state-frequency 3 -o f32.gguf");
    super::run(stopped.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "end:2"));
    bench.fails("merge f32.gguf.state", &["f32.gguf.state: its sums are f32", "--accumulate f64"]);
    let bytes = bench.read(one);
    bench.write("cut.state", &bytes[..bytes.len() - 1]);
    bench.fails(&format!("merge {zero} cut.state {two}"), &["cut.state: the state file is incomplete or damaged"]);
    bench.fails(
        &format!("merge {all} whole.gguf"),
        &["'whole.gguf' is not a state: states can only be merged with states"],
    );
    bench.fails(&format!("merge {all} --weight 1,1,1"), &["--weight cannot be combined with state files"]);
    bench.fails(
        &format!("merge {all} -o {one}"),
        &[&format!("'{one}' is read by merge and would be overwritten by --output")],
    );
    bench.fails("merge none.state", &["none.state", "No such file"]);
    bench.fails(&format!("merge {all} -o none/x.gguf"), &["cannot write 'none/x.gguf'"]);
    bench.fails("merge", &["FILE"]);
    assert_eq!((bench.read("imatrix.gguf"), bench.read(one)), (EARLIER_MATRIX.to_vec(), bytes));
    let ran = bench.ok(&format!("merge {all}"));
    assert_eq!(ran.stdout, "", "no perplexity was computed");
    assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"));
}

#[test]
fn matrices_merge_with_weights() {
    let bench = Bench::new(&["llama", "qwen2"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --no-ppl";
    bench.ok(&format!("{run} --chunks 4 -o a.gguf"));
    std::fs::rename(bench.path("calibration.txt"), bench.path("second.txt")).unwrap();
    bench.ok("-m llama.gguf -f second.txt -c 64 -b 64 --no-ppl --chunk 4 --chunks 2 -o b.gguf");
    bench.ok("--in-file a.gguf -o a.dat -c 64");

    // Without weights, as --in-file merges them.
    bench.ok("merge a.gguf b.gguf -o plain.gguf");
    bench.ok("--in-file a.gguf,b.gguf -o in-file.gguf");
    assert!(bench.read("plain.gguf") == bench.read("in-file.gguf"));
    // Two rows of b count as one of a's: as much as a's, since a has two of b's.
    bench.ok("merge a.gguf b.gguf --weight 1 --weight 2 -o even.gguf");
    bench.ok("merge a.gguf b.gguf --weight 1,2 -o again.gguf");
    assert!(bench.read("even.gguf") == bench.read("again.gguf"));
    let [a, b, even] = ["a.gguf", "b.gguf", "even.gguf"].map(|name| Imatrix::load(bench.path(name)).unwrap());
    assert_eq!(even.datasets, ["calibration.txt", "second.txt"]);
    for (name, entry) in &even.entries {
        let (a, b) = (&a.entries[name], &b.entries[name]);
        assert_eq!(entry.counts, [4 * 64 + 2 * 2 * 64]);
        for ((&sum, &a), &b) in entry.sum2.iter().zip(&a.sum2).zip(&b.sum2) {
            assert!((f64::from(sum) - (f64::from(a) + 2.0 * f64::from(b))).abs() <= 1e-6 * f64::from(sum), "{name}");
        }
    }
    let ran = bench.ok("merge a.dat b.gguf --weight 0.5,1 --legacy-chunk-size 64 -o legacy.gguf");
    assert!(ran.stderr.contains("'a.dat' does not store its chunk size: 64 tokens are assumed"), "{}", ran.stderr);
    let legacy = Imatrix::load(bench.path("legacy.gguf")).unwrap();
    assert_eq!(legacy.entries["blk.0.attn_q.weight"].counts, [2 * 64 + 2 * 64]);
    let ran = bench.ok("merge a.gguf b.gguf -o both.dat");
    assert!(ran.stderr.contains("a .dat file stores one data set, the last: 'second.txt'"), "{}", ran.stderr);

    bench.write("out.gguf", EARLIER_MATRIX);
    bench.ok("-m qwen2.gguf -f second.txt -c 64 -b 64 --no-ppl --chunks 2 -o qwen2.imatrix.gguf");
    for (args, says) in [
        ("a.gguf b.gguf --weight 2", "--weight: found 1 weights for 2 files"),
        ("a.gguf b.gguf --weight 1,0", "expected a number above 0"),
        ("a.gguf b.gguf --weight 1,NaN", "expected a number above 0"),
        ("a.gguf second.txt", "failed to load imatrix 'second.txt'"),
        ("a.gguf qwen2.imatrix.gguf", "'qwen2.imatrix.gguf' is of another model than 'a.gguf': 'blk.0."),
        ("a.gguf llama.gguf", "failed to load imatrix 'llama.gguf'"),
    ] {
        bench.fails(&format!("merge {args} -o out.gguf"), &[says]);
        assert_eq!(bench.read("out.gguf"), EARLIER_MATRIX);
    }
}
