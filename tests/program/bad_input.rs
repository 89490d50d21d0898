//! Each bad input: one clear error, exit code 1, nothing harmed, and found before the run where it can be.

use super::*;

const COLLECT: &str = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2";

#[test]
fn a_run_without_a_model_is_refused() {
    let bench = Bench::new(&["llama"]);
    bench.fails("-f calibration.txt", &["--model is required"]);
    bench.fails("-m none.gguf -f calibration.txt", &["none.gguf", "No such file"]);
    bench.fails("-m . -f calibration.txt", &["cannot read model '.'", "directory"]);
}

#[test]
fn files_that_are_not_models_or_truncated_are_refused() {
    let bench = Bench::new(&[]);
    bench.write("text.gguf", b"this is no model, but it is long enough for a header");
    bench.fails("-m text.gguf -f calibration.txt", &["'text.gguf' is not a GGUF file", "hint: --model"]);
    let whole = support::build("llama");
    bench.write("cut.gguf", &whole[..whole.len() - 4000]);
    bench.fails("-m cut.gguf -f calibration.txt", &["cannot load model 'cut.gguf'", "corrupted or incomplete"]);
    for len in [0, 3, 20, 500, 5000, whole.len() / 2] {
        bench.write("cut.gguf", &whole[..len]);
        bench.fails("-m cut.gguf -f calibration.txt", &["cannot load model 'cut.gguf'"]);
    }
}

/// GPT-2 looks positions up in a table, where upstream's tool aborts.
#[test]
fn chunks_beyond_the_learned_positions_are_refused() {
    let bench = Bench::new(&["gpt2"]);
    bench.write("long.txt", support::text(6000, 3).as_bytes());
    let run = "-m gpt2.gguf -f long.txt --chunks 1";
    bench.ok(&format!("{run} -c 1024 -o fits.gguf"));
    let says = ["position 2047 is none of the 1024 that the model has learned; hint: --ctx-size 1024 or less"];
    bench.fails(&format!("{run} -c 2048"), &says);
}

#[test]
fn missing_and_short_texts_are_refused() {
    let bench = Bench::new(&["llama"]);
    bench.fails("-m llama.gguf -f none.txt", &["none.txt", "No such file"]);
    bench.write("short.txt", b"a few words");
    let ran =
        bench.fails("-m llama.gguf -f short.txt", &["at least 1024 tokens for a context of 512", "tokenizes to only"]);
    assert_eq!(ran.stdout, "");
    bench.write("empty.txt", b"\n");
    bench.fails("-m llama.gguf -f empty.txt", &["'empty.txt' is empty", "hint: "]);
    bench.fails(
        "-m llama.gguf -f calibration.txt -c 64 --chunk 100000",
        &["not enough tokens left after removing 100000 chunks"],
    );
    bench.fails("-m llama.gguf -f calibration.txt --chunk -3", &["--chunk", "-3"]);
}

#[test]
fn unknown_flags_and_values_out_of_range_are_refused() {
    let bench = Bench::new(&["llama"]);
    bench.fails("-m llama.gguf -f calibration.txt --no-such-flag", &["invalid argument: --no-such-flag"]);
    bench.fails("-m llama.gguf -f calibration.txt -zz", &["invalid argument: -z"]);
    for size in ["0", "-5"] {
        bench.fails(&format!("-m llama.gguf -f calibration.txt -c {size}"), &["'--ctx-size' > 0", size]);
    }
    bench.fails("-m llama.gguf -f calibration.txt -b 0", &["--batch-size", "found 0"]);
    bench.fails("-m llama.gguf -f calibration.txt -ub -1", &["--ubatch-size", "found -1"]);
    bench.fails("-m llama.gguf -f calibration.txt -c many", &["many", "--ctx-size"]);
    bench.fails("-m llama.gguf -f calibration.txt -fa perhaps", &["--flash-attn", "'perhaps'"]);
    bench.fails("-m llama.gguf -f calibration.txt -ngl some", &["--n-gpu-layers", "'some'"]);
    bench.fails("-m llama.gguf -f calibration.txt --output-format csv", &["csv", "gguf", "dat"]);
    bench.fails("-m", &["--model"]);
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_the_run() {
    let bench = Bench::new(&["llama"]);
    bench.write("file", b"not a folder");
    std::fs::create_dir(bench.path("folder")).unwrap();
    for (output, says) in [
        ("none/imatrix.gguf", "folder 'none'"),
        ("file/imatrix.gguf", "cannot write 'file/imatrix.gguf'"),
        ("folder", "it is a folder"),
    ] {
        let ran = bench.fails(&format!("{COLLECT} -o {output}"), &[says]);
        assert_eq!(ran.stdout, "");
        assert!(!ran.stderr.contains("tokenizing"), "the run began:\n{}", ran.stderr);
    }
    // A merge finds it too.
    bench.ok(&format!("{COLLECT} -o a.gguf"));
    bench.fails("--in-file a.gguf -o none/b.gguf", &["folder 'none'"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files_is_found_before_the_run() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.fails(&format!("{COLLECT} -o /proc/imatrix.gguf"), &["cannot write '/proc/imatrix.gguf'"]);
    assert!(!ran.stderr.contains("tokenizing"), "{}", ran.stderr);
}

/// The shell's file size limit stands in for a full disk that needs no privileges: writes fail in mid-file.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_earlier_file() {
    let bench = Bench::new(&["llama"]);
    bench.write("imatrix.gguf", EARLIER_MATRIX);
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let ran = run_in_shell(&bench, script, COLLECT);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot save 'imatrix.gguf'"), "{}", ran.stderr);
    assert_eq!(bench.read("imatrix.gguf"), EARLIER_MATRIX);
    assert_eq!(bench.new_files(&["llama.gguf", "imatrix.gguf"]), [] as [&str; 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_matrix_that_cannot_be_saved_goes_to_the_temporary_folder() {
    let bench = Bench::new(&["llama"]);
    let rescue = tempfile::tempdir().unwrap();
    let ran = run(bench.command(&format!("{COLLECT} -o /dev/full")).env("TMPDIR", rescue.path()));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    let rescued: Vec<_> = std::fs::read_dir(rescue.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(rescued.len(), 1);
    assert!(ran.stderr.contains(rescued[0].to_str().unwrap()), "{}", ran.stderr);
    bench.ok(&format!("{COLLECT} -o imatrix.gguf"));
    assert_eq!(std::fs::read(&rescued[0]).unwrap(), bench.read("imatrix.gguf"));
}

#[test]
fn non_finite_activations_end_the_run_and_keep_an_earlier_output() {
    for model in ["llama-nan-layer", "llama-inf-layer"] {
        let bench = Bench::new(&[model]);
        bench.write("imatrix.gguf", EARLIER_MATRIX);
        let run = format!("-m {model}.gguf -f calibration.txt -c 64 -b 64");
        for (flags, says) in [
            ("--nan abort", &["error: chunk 1, tokens 0 to 63 of the text: non-finite values detected in blk."][..]),
            (
                "--max-bad-chunks 2 --lanes 1",
                &[
                    "discarded chunk 1, tokens",
                    "discarded chunk 2, tokens",
                    "3 chunks with",
                    "at most 2",
                    "chunk 3, tokens",
                ],
            ),
        ] {
            let ran = bench.fails(&format!("{run} {flags}"), says);
            assert_eq!(ran.stdout, "", "the loop has printed nothing yet");
            assert_eq!(bench.read("imatrix.gguf"), EARLIER_MATRIX);
        }
    }
}

#[test]
fn non_finite_activations_keep_the_earlier_saves() {
    let bench = Bench::new(&["llama-nan-token"]);
    // The token with the broken embedding comes late in the text; each chunk before it is saved.
    let run = "-m llama-nan-token.gguf -f calibration.txt -c 64 -b 64 --nan abort --state-interval 0";
    let ran = bench.run(&format!("{run} -ofreq 1"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("non-finite values detected in blk.0."), "{}", ran.stderr);
    let saved = llama_imatrix::imatrix::Imatrix::load(bench.path("imatrix.gguf")).unwrap();
    assert!(saved.chunk_count > 0);
    let says = format!("the sums of the first {} chunks are in 'imatrix.gguf'", saved.chunk_count);
    assert!(ran.stderr.contains(&says), "{}", ran.stderr);
}

/// The other chunks' sums are those of a run that never saw the bad one.
#[test]
fn a_discarded_chunk_leaves_the_other_sums_unchanged() {
    let bench = Bench::new(&["llama-nan-token"]);
    let run = |more: &str| bench.ok(&format!("-m llama-nan-token.gguf -f calibration.txt -c 64 -b 64 --no-ppl {more}"));
    for lanes in [1, 2] {
        run(&format!("--lanes {lanes} -o with.gguf"));
        // A run over the chunks before it, gone on with over those after it, adds in the same order.
        run("--chunks 45 -o before.gguf");
        run("--chunk 46 --in-file before.gguf -o without.gguf");
        let load = |name| llama_imatrix::imatrix::Imatrix::load(bench.path(name)).unwrap();
        let (with, without) = (load("with.gguf"), load("without.gguf"));
        assert_eq!(with.entries, without.entries);
        assert_eq!(with.chunk_count, without.chunk_count);
    }
}

#[test]
fn an_in_file_that_is_not_a_matrix_is_refused() {
    let bench = Bench::new(&["llama"]);
    bench.write("noise.gguf", &[7; 3000]);
    let with = |file: &str| format!("{COLLECT} --in-file {file}");
    bench.fails(&with("none.gguf"), &["failed to open file 'none.gguf'"]);
    bench.fails(&with("noise.gguf"), &["failed to load imatrix 'noise.gguf'"]);
    bench.fails(&with("calibration.txt"), &["failed to load imatrix 'calibration.txt'"]);
    bench.fails(&with("llama.gguf"), &["failed to load imatrix 'llama.gguf'"]);
    bench.fails("--show-statistics", &["--in-file"]);
    bench.fails("--show-statistics --in-file noise.gguf", &["noise.gguf"]);
}

#[test]
fn an_in_file_of_another_model_is_refused() {
    let bench = Bench::new(&["llama", "qwen2"]);
    bench.ok("-m qwen2.gguf -f calibration.txt -c 64 -b 64 --chunks 2 -o qwen2.imatrix.gguf");
    let ran =
        bench.fails(&format!("{COLLECT} --in-file qwen2.imatrix.gguf"), &["inconsistent size of 'blk.0.", "--in-file"]);
    assert!(!ran.stderr.contains("tokenizing"), "found before the run:\n{}", ran.stderr);
}
