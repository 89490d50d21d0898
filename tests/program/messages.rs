//! What the program says besides its results: the end of a run, errors that lead on, help.

use super::*;

const COLLECT: &str = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2";

/// The line of the log that begins with `begin`.
fn line<'r>(ran: &'r Ran, begin: &str) -> &'r str {
    let line = ran.stderr.lines().find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no line begins with '{begin}':\n{}", ran.stderr))
}

#[test]
fn the_end_of_a_run_says_what_was_saved_and_what_comes_next() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok(COLLECT);
    let matrix = llama_imatrix::imatrix::Imatrix::load(bench.path("imatrix.gguf")).unwrap();
    let saved = line(&ran, "saved imatrix.gguf: ");
    let begin = format!("saved imatrix.gguf: {} weights, 2 chunks of 64 tokens, ", matrix.entries.len());
    assert!(saved.starts_with(&begin) && saved.contains(" KiB, "), "{saved}");
    let (_, perplexity) = saved.split_once(", PPL ").unwrap();
    assert!(estimate(&ran).contains(&perplexity[..perplexity.len() - 1]), "{saved}");
    let next = "next: llama-quantize --imatrix imatrix.gguf llama.gguf llama-IQ4_XS.gguf IQ4_XS";
    assert_eq!(line(&ran, "next: "), next);
    assert!(ran.stderr.ends_with("to inspect it: llama-imatrix report imatrix.gguf\n"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("saved") && !ran.stdout.contains("next"), "{}", ran.stdout);

    let ran = run(bench.command(COLLECT).args(["--no-ppl", "-o", "my matrix.gguf"]));
    assert!(!line(&ran, "saved 'my matrix.gguf': ").contains("PPL"));
    assert!(line(&ran, "next: ").contains("--imatrix 'my matrix.gguf' llama.gguf"));
    // A stream has no size, and no command that reads it again.
    let ran = bench.ok(&format!("{COLLECT} -o /dev/null"));
    assert!(line(&ran, "saved /dev/null: ").contains("2 chunks of 64 tokens, ") && !ran.stderr.contains("next: "));
}

#[test]
fn merges_and_shards_say_what_was_saved_and_what_comes_next() {
    let bench = Bench::new(&["llama"]);
    for shard in [0, 1] {
        let ran = bench.ok(&format!("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 4 --shard {shard}/2"));
        assert!(line(&ran, &format!("saved imatrix.{shard}-of-2.state: shard {shard}")).contains("2 chunks ("));
        assert_eq!(
            line(&ran, "next, after all 2 shards are complete: "),
            "next, after all 2 shards are complete: llama-imatrix merge imatrix.*-of-2.state -o imatrix.gguf"
        );
    }
    let ran = bench.ok("merge imatrix.0-of-2.state imatrix.1-of-2.state");
    assert!(line(&ran, "saved imatrix.gguf: ").contains(" weights, 4 chunks of 64 tokens, "));
    let ran = bench.ok("--in-file imatrix.gguf --in-file imatrix.gguf -o twice.gguf");
    assert!(line(&ran, "saved twice.gguf: ").contains(" weights, 8 chunks of 64 tokens, "));
}

/// Twenty mistakes, each with what leads on from it.
#[test]
fn wrong_usages_lead_on() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("{COLLECT} -o m.imatrix"));
    bench.ok(&format!("{COLLECT} --shard 0/2 -o s.state"));
    bench.write("empty.txt", b"");
    bench.write("short.txt", b"a few words and a few words more");
    bench.write("bad.zst", b"BZh9 not zstd");
    let all: [(&str, &[&str]); 24] = [
        (
            "-m calibration.txt -f calibration.txt",
            &["'calibration.txt' is not a GGUF file: it begins with", "hint: --model takes"],
        ),
        (
            "-m m.imatrix -f calibration.txt",
            &["'m.imatrix' is not a model, but an importance matrix", "did you mean --in-file?"],
        ),
        ("-m s.state -f calibration.txt", &["not a model, but the state of a run", "--resume continues"]),
        ("-m llama.gguf -f empty.txt", &["'empty.txt' is empty", "hint: name a file with text"]),
        ("-m llama.gguf -f short.txt", &["tokenizes to only", "hint: add more text", "--keep-tail"]),
        ("-m llama.gguf -f llama.gguf", &["'llama.gguf' is no text: it is a GGUF file", "hint: --model takes a model"]),
        ("-m llama.gguf -f bad.zst", &["cannot decompress 'bad.zst': it is not a zstd file"]),
        ("-m llama.gguf", &["no prompt provided", "hint: llama-imatrix -m MODEL -f TEXT"]),
        ("-f calibration.txt", &["--model is required", "hint: llama-imatrix -m MODEL"]),
        ("stat m.imatrix", &["invalid command or flag: stat", "did you mean `llama-imatrix stats`?"]),
        ("--stats m.imatrix", &["invalid argument: --stats", "the command `llama-imatrix stats`"]),
        ("--modle llama.gguf -f calibration.txt", &["invalid argument: --modle", "did you mean --model?"]),
        ("-m llama.gguf -f calibration.txt -c512", &["-c 512"]),
        ("llama.gguf -f calibration.txt", &["invalid argument: llama.gguf", "hint: -m names the model"]),
        ("-m llama.gguf calibration.txt", &["invalid argument: calibration.txt", "hint: -f names a text"]),
        ("m.imatrix", &["it is an importance matrix: `llama-imatrix stats m.imatrix` shows it"]),
        ("stats llama.gguf", &["not an importance matrix, but a model of architecture 'llama'", "hint: "]),
        ("stats s.state", &["not an importance matrix, but the state of a run", "--resume", "`llama-imatrix merge`"]),
        (
            "--show-statistics --in-file calibration.txt",
            &["neither a GGUF nor a legacy .dat importance matrix", "hint: "],
        ),
        (
            "--show-statistics",
            &["--show-statistics requires a matrix", "hint: llama-imatrix --show-statistics --in-file"],
        ),
        ("--logit-lens --in-file m.imatrix -o other.gguf", &["--logit-lens needs a model and a text", "hint: "]),
        ("help stat", &["there is no command or flag 'stat'", "did you mean `llama-imatrix help stats`?"]),
        ("stats m.imatrix --sorted h_norm", &["unexpected argument '--sorted'", "'--sort"]),
        ("-m llama.gguf -f calibration.txt -dev CUDA7", &["invalid device: CUDA7", "hint: --list-devices"]),
    ];
    for (args, says) in all {
        let ran = bench.fails(args, says);
        assert_eq!(ran.stdout, "", "{args}");
        assert!(ran.stderr.matches("hint: ").count() <= 1, "{args}: {}", ran.stderr);
        assert!(!ran.stderr.contains("llama_model_load"), "{args}: {}", ran.stderr);
    }
}

#[test]
fn an_error_states_each_cause_once() {
    let bench = Bench::new(&["llama"]);
    let whole = bench.read("llama.gguf");
    bench.write("cut.gguf", &whole[..whole.len() - 4000]);
    for (args, once) in [
        ("-m cut.gguf -f calibration.txt", "is not within the file bounds"),
        ("-m none.gguf -f calibration.txt", "No such file"),
        ("merge none.state none2.state", "No such file"),
        (&format!("{COLLECT} --kl-divergence-base none --logit-lens"), "No such file"),
        (&format!("{COLLECT} --lora none.gguf"), "No such file"),
    ] {
        let ran = bench.fails(args, &["error: "]);
        assert_eq!(ran.stderr.matches(once).count(), 1, "{args}: {}", ran.stderr);
    }
    let ran =
        bench.fails(&format!("{COLLECT} -o none/x.gguf"), &["cannot write 'none/x.gguf': there is no folder 'none'"]);
    assert!(!ran.stderr.contains("imatrix-tmp"), "a temporary name says nothing: {}", ran.stderr);
}

#[test]
fn gpu_layers_without_a_gpu_warn() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok(&format!("{COLLECT} -ngl 99"));
    if bench.ok("--list-devices").stdout.contains("(none)") {
        assert!(line(&ran, "warning: no GPU found: --gpu-layers").contains("no effect"));
    }
    assert!(!bench.ok(COLLECT).stderr.contains("no GPU found"));
}

#[test]
fn help_comes_in_three_sizes() {
    let bench = Bench::new(&[]);
    let short = bench.ok("-h").stdout;
    assert!(short.lines().count() <= 45 && short.lines().all(|line| line.len() <= 80), "{short}");
    for name in ["  stats FILE..", "  worker [OPTIONS]", "--model", "--resume"] {
        assert!(short.contains(name), "{name}: {short}");
    }
    assert_eq!(bench.ok("help").stdout, short);
    assert_eq!(bench.ok("help stats").stdout, bench.ok("stats --help").stdout);
    let flag = bench.ok("help --tokens").stdout;
    assert!(flag.starts_with("  --tokens N ") && flag == bench.ok("help tokens").stdout, "{flag}");
    assert!(bench.ok("--help").stdout.contains(flag.lines().next().unwrap()));
}
