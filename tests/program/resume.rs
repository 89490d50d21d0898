//! Runs that end before their time go on to the bytes they would have had.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use super::*;

/// With one lane saves come when they are due, with more when all lanes are between batches.
const RUN: &str = "-m llama.gguf -f calibration.txt -c 64 -b 64 --lanes 1";

/// What a run that is never stopped leaves: the matrix's bytes and the line of its perplexity.
fn never_stopped(bench: &Bench, run: &str) -> (Vec<u8>, String) {
    let ran = bench.ok(&format!("{run} -o whole.gguf"));
    assert!(!bench.path("whole.gguf.state").exists());
    (bench.read("whole.gguf"), estimate(&ran).to_owned())
}

/// Starts a run and waits for a save; `None` where it was over before that could be seen.
fn start(bench: &Bench, args: &str) -> Option<std::process::Child> {
    let saved = || bench.path("imatrix.gguf.state").metadata().ok().map(|file| (file.ino(), file.modified().ok()));
    let before = saved();
    let mut command = bench.command(args);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while saved().is_none_or(|state| Some(state) == before) {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no save in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(child)
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let bench = Bench::new(&["llama", "qwen3moe"]);
    for (model, flags) in [("llama", "--lanes 1"), ("llama", "--lanes 2"), ("qwen3moe", "--accumulate f64 -ofreq 7")] {
        let run = format!("-m {model}.gguf -f calibration.txt -c 64 -b 64 {flags}");
        let (bytes, estimate_line) = never_stopped(&bench, &run);
        let run = format!("{run} --state-frequency 1");
        let mut kills = 0;
        let mut next = run.clone();
        while let Some(mut child) = (kills < 3).then(|| start(&bench, &next)).flatten() {
            child.kill().unwrap();
            if child.wait_with_output().unwrap().status.success() {
                break;
            }
            kills += 1;
            next = format!("{run} --resume");
        }
        assert!(kills > 0, "never killed in time");
        let ran = bench.ok(&format!("{run} --resume"));
        assert!(ran.stderr.contains("resuming from 'imatrix.gguf.state': chunks 1"), "{}", ran.stderr);
        assert_eq!((bench.read("imatrix.gguf") == bytes, estimate(&ran)), (true, estimate_line.as_str()), "{run}");
        assert!(!bench.path("imatrix.gguf.state").exists(), "a run that is complete leaves no state");
    }
}

/// Each instant of a save: what is on the disk is the file before it or the one after it, never a part.
#[test]
fn a_run_killed_inside_a_save_resumes_from_the_last_one() {
    let bench = Bench::new(&["llama"]);
    let run = format!("{RUN} --chunks 9");
    let (bytes, estimate_line) = never_stopped(&bench, &run);
    let run = format!("{run} --state-frequency 2");
    for (stage, done) in [("write", "1-4"), ("fsync", "1-4"), ("rename", "1-4"), ("end", "1-6")] {
        let ran = bench
            .command(&run)
            .env("LLAMA_IMATRIX_TEST_STOP_SAVE", format!("{stage}:3"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(ran.status.signal().is_some(), "{stage}: {ran:?}");
        let unfinished = |name: &String| name.ends_with(".imatrix-tmp");
        assert_eq!(bench.new_files(&[]).iter().any(unfinished), stage != "end", "{stage}");
        let ran = bench.ok(&format!("{run} --resume"));
        assert!(ran.stderr.contains(&format!("chunks {done} are done")), "{stage}\n{}", ran.stderr);
        assert!(bench.read("imatrix.gguf") == bytes, "{stage}");
        assert_eq!(estimate(&ran), estimate_line);
        let left = bench.new_files(&["llama.gguf", "whole.gguf"]);
        assert_eq!(left, ["imatrix.gguf"], "{stage}: what the kill has left is gone");
    }
}

#[test]
fn a_second_run_leaves_the_first_ones_files_alone() {
    let bench = Bench::new(&["llama"]);
    bench.write("calibration.txt", support::text(8000, 3).as_bytes());
    let (bytes, _) = never_stopped(&bench, RUN);
    let mut first = start(&bench, &format!("{RUN} --state-frequency 1")).expect("a run that takes a while");
    let signal = |name: &str| {
        let status = Command::new("kill").args([&format!("-{name}"), &first.id().to_string()]).status();
        assert!(status.unwrap().success());
    };
    signal("STOP");
    for flags in ["", "--resume", "--state-interval 0"] {
        let says = "another run is writing 'imatrix.gguf' (it holds '.imatrix.gguf.imatrix-lock')";
        bench.fails(&format!("{RUN} {flags}"), &[says]);
    }
    bench.ok(&format!("{RUN} --chunks 2 -o other.gguf"));
    signal("CONT");
    let mut stdout = String::new();
    std::io::Read::read_to_string(&mut first.stdout.take().unwrap(), &mut stdout).unwrap();
    assert!(first.wait().unwrap().success());
    assert!(bench.read("imatrix.gguf") == bytes);
    assert_eq!(bench.new_files(&["llama.gguf"]), ["imatrix.gguf", "other.gguf", "whole.gguf"]);
}

/// The limit is between the sizes of the two files: the state can be saved and the matrix cannot.
#[test]
fn a_matrix_that_cannot_be_saved_at_the_end_is_in_the_state() {
    let bench = Bench::new(&["llama"]);
    let (bytes, line) = never_stopped(&bench, &format!("{RUN} --chunks 8"));
    let script = "trap '' XFSZ; ulimit -f 31; exec \"$0\" \"$@\"";
    let ran = run_in_shell(&bench, script, &format!("{RUN} --chunks 8"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let says = "the run is complete in 'imatrix.gguf.state', --resume writes the matrix again";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
    assert_eq!(bench.new_files(&["llama.gguf", "whole.gguf"]), ["imatrix.gguf.state"]);
    let ran = bench.ok(&format!("{RUN} --chunks 8 --resume"));
    assert_eq!((bench.read("imatrix.gguf") == bytes, estimate(&ran)), (true, line.as_str()));
    assert!(!bench.path("imatrix.gguf.state").exists());
}

#[test]
fn a_state_records_the_in_files_of_its_run() {
    let bench = Bench::new(&["llama"]);
    for (name, chunks) in [("a", 2), ("b", 3)] {
        bench.ok(&format!("{RUN} --chunks {chunks} --no-ppl -o {name}.gguf"));
    }
    let stopped = |flags: &str| {
        let mut command = bench.command(&format!("{RUN} --state-frequency 3 {flags}"));
        assert_eq!(run(command.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "end:1")).code, None);
    };
    stopped("--in-file a.gguf");
    let says = "what --in-file names (sha256) is ";
    bench.fails(&format!("{RUN} --in-file b.gguf --resume"), &["cannot resume from", "another run", says, " before, "]);
    bench.fails(&format!("{RUN} --resume"), &[" before, none now"]);
    bench
        .fails(&format!("{RUN} --in-file a.gguf --no-repack --resume"), &["--no-repack is 'false' before, 'true' now"]);
    std::fs::rename(bench.path("a.gguf"), bench.path("c.gguf")).unwrap();
    bench.ok(&format!("{RUN} --in-file c.gguf --resume"));
}

/// A device has no folder of its own to keep a state in.
#[test]
fn no_state_is_kept_beside_a_device() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("{RUN} --chunks 3 --state-interval 1 -o /dev/null"));
    assert!(!Path::new("/dev/null.state").exists() && !Path::new("/dev/.null.imatrix-lock").exists());
}

#[test]
fn a_state_is_resumed_only_by_the_same_run() {
    let bench = Bench::new(&["llama", "qwen2"]);
    bench.write("other.txt", support::text(1500, 4).as_bytes());
    let ran = bench.ok(&format!("{RUN} --chunks 2 --resume -o none.gguf"));
    assert!(ran.stderr.contains("'none.gguf.state' does not exist: nothing to resume"), "{}", ran.stderr);

    let mut stopped = bench.command(&format!("{RUN} --state-frequency 3"));
    stopped.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "end:1");
    assert_eq!(run(&mut stopped).code, None);
    let state = bench.read("imatrix.gguf.state");
    let n = "'imatrix.gguf.state' holds a run with 3 of ";
    bench.fails(RUN, &[n, "hint: --resume continues it; delete the file to start over"]);
    for (flags, says) in [
        ("-m qwen2.gguf -f calibration.txt -c 64 -b 64", "the model's architecture is llama before, qwen2 now"),
        ("-m llama.gguf -f other.txt -c 64 -b 64", "the text's tokens (sha256) is "),
        ("-m llama.gguf -f calibration.txt -c 32 -b 64", "the context size is 64 before, 32 now"),
        ("-m llama.gguf -f calibration.txt -c 64 -b 128", "the batch size is 64 before, 128 now"),
    ] {
        bench.fails(&format!("{flags} --resume"), &["cannot resume from 'imatrix.gguf.state'", says]);
    }
    for (flags, says) in [
        ("--process-output", "--process-output is 'false' before, 'true' now"),
        ("--accumulate f64", "--accumulate is f32 before, f64 now"),
        ("--no-ppl", "--ppl is 'true' before, 'false' now"),
        ("-fa off", "--flash-attn"),
        ("--sum-on device", "--sum-on is not set before, 'device' now"),
        ("--chunks 4", "this one 4 (--chunks)"),
    ] {
        bench.fails(&format!("{RUN} {flags} --resume"), &["cannot resume from 'imatrix.gguf.state'", says]);
    }
    assert!(bench.read("imatrix.gguf.state") == state, "refusals leave the file alone");

    for len in [0, 4, 100, state.len() / 2, state.len() - 1] {
        bench.write("imatrix.gguf.state", &state[..len]);
        bench.fails(&format!("{RUN} --resume"), &["cannot resume from 'imatrix.gguf.state'"]);
        bench.fails(RUN, &["'imatrix.gguf.state' exists and is not a readable state", "hint: delete it"]);
        assert_eq!(bench.read("imatrix.gguf.state").len(), len);
    }
    bench.write("imatrix.gguf.state", &state);
    bench.ok(&format!("{RUN} --resume"));
}

/// The shell's file size limit stands in for a full disk.
#[test]
fn a_state_that_cannot_be_saved_does_not_end_the_run() {
    let bench = Bench::new(&["llama"]);
    let run = format!("{RUN} --chunks 8");
    let (bytes, _) = never_stopped(&bench, &run);
    // The limit is below the size of both files, so that the last save fails too; what was good before stays.
    let mut stopped = bench.command(&format!("{run} --state-frequency 3"));
    stopped.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "end:1");
    assert_eq!(super::run(&mut stopped).code, None);
    let state = bench.read("imatrix.gguf.state");
    bench.write("imatrix.gguf", EARLIER_MATRIX);
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let ran = run_in_shell(&bench, script, &format!("{run} --resume --state-frequency 1"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let warnings = ran.stderr.matches("the run continues and will try again").count();
    assert_eq!(warnings, 5, "chunks 4 to 8\n{}", ran.stderr);
    assert!(bench.read("imatrix.gguf.state") == state && bench.read("imatrix.gguf") == EARLIER_MATRIX);
    let mut left = bench.new_files(&["llama.gguf", "whole.gguf"]);
    left.retain(|name| name != "imatrix.gguf" && name != "imatrix.gguf.state");
    assert_eq!(left, [] as [&str; 0]);
    bench.ok(&format!("{run} --resume"));
    assert!(bench.read("imatrix.gguf") == bytes);
}
