//! What signals do to a run.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::state::State;

use super::*;

const RUN: &str = "-m llama.gguf -f long.txt -c 64 -b 64 --state-frequency 1";

/// Starts a run that takes about a second, and returns once its first save is there.
fn start(bench: &Bench, args: &str) -> Child {
    bench.write("long.txt", support::text(8000, 1).as_bytes());
    let mut command = bench.command(args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !bench.path("imatrix.gguf.state").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first save");
        assert!(started.elapsed() < Duration::from_secs(60), "no save in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The program notes a save once its folder is synced, a moment after the file has its name.
    std::thread::sleep(Duration::from_millis(100));
    child
}

/// Sends signals at once, one after the other, and waits for the end.
fn end(child: Child, signals: &[&str]) -> Ran {
    let kills: Vec<String> = signals.iter().map(|signal| format!("kill -{signal} {}", child.id())).collect();
    assert!(Command::new("sh").arg("-c").arg(kills.join(" && ")).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_first_signal_saves_and_says_how_to_go_on() {
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(8000, 1).as_bytes());
    let whole = bench.ok("-m llama.gguf -f long.txt -c 64 -b 64 -o whole.gguf");
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        // Under nohup it is ignored, and the program leaves it so.
        if number == 1 && llama_imatrix::llama::is_ignored(number) {
            continue;
        }
        let ran = end(start(&bench, RUN), &[signal]);
        assert_eq!(ran.code, Some(128 + number), "{ran:?}");
        let says = [
            "warning: interrupted after chunk",
            "interrupted by SIGTERM after chunk",
            "interrupted by SIGHUP after chunk",
        ];
        assert!(says.iter().any(|says| ran.stderr.contains(says)), "{}", ran.stderr);
        let at_once = "finishing the current batch, then saving; Ctrl-C again to quit without saving";
        assert!(ran.stderr.contains(at_once), "{}", ran.stderr);
        let says = "; the matrix so far is in 'imatrix.gguf', the state is in 'imatrix.gguf.state': the same command with \
                    --resume continues it";
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        let state = State::load(bench.path("imatrix.gguf.state")).unwrap();
        let output = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
        assert_eq!(output.chunk_count as u64, state.progress.done.len(), "state and output are of the same chunks");
        assert!(state.progress.done.len() < state.progress.n_chunks);

        let ran = bench.ok(&format!("{RUN} --resume"));
        assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"));
        assert_eq!(estimate(&ran), estimate(&whole));
        assert_eq!(bench.new_files(&["llama.gguf", "long.txt", "whole.gguf"]), ["imatrix.gguf"]);
    }
}

#[test]
fn the_second_signal_does_not_wait() {
    let bench = Bench::new(&["llama"]);
    // Batches of a good part of a second.
    let run = "-m llama.gguf -f long.txt -c 64 -b 4096 -ub 64 -ofreq 0 --state-frequency 1 --lanes 1";
    let ran = end(start(&bench, run), &["INT", "TERM"]);
    // Signals that come together may be delivered in either order.
    assert!([Some(128 + 2), Some(128 + 15)].contains(&ran.code), "{ran:?}");
    assert!(!ran.stderr.contains("interrupted after"), "{}", ran.stderr);
    assert!(ran.stderr.contains("finishing the current batch of 64 chunks, then saving"), "{}", ran.stderr);
    let says = "interrupted without saving; the run up to the last save is in 'imatrix.gguf.state'; hint: --resume continues it";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
    State::load(bench.path("imatrix.gguf.state")).unwrap();
    assert!(!bench.path("imatrix.gguf").exists());
    bench.ok(&format!("{run} --resume"));
}

#[test]
fn a_signal_asks_for_progress_and_a_save() {
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(8000, 1).as_bytes());
    // Nothing else saves the state within its time.
    let mut command = bench.command("-m llama.gguf -f long.txt -c 64 -b 64 -ofreq 0 --state-interval 600 --lanes 1");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut [0; 100]).unwrap(); // it is at its first chunks
    let signal = |name: &str| Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(signal("USR1").unwrap().success());
    let started = Instant::now();
    while !bench.path("imatrix.gguf.state").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no save in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    let state = State::load(bench.path("imatrix.gguf.state"));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let line =
        stderr.lines().find(|line| line.contains(" chunks are done, PPL ")).unwrap_or_else(|| panic!("{stderr}"));
    let chunks: u64 = line.split(' ').next().unwrap().parse().unwrap();
    // The run may have come to its end, and have removed the state, before that could be read.
    if let Ok(state) = state {
        assert_eq!(state.progress.done.len(), chunks);
    }
    assert!(rest.contains("Final estimate"), "it went on");
}

/// `nohup` has the end of a terminal ignored, and so it stays.
#[test]
fn ignored_signals_stay_ignored() {
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(8000, 1).as_bytes());
    let script = "trap '' HUP; \"$0\" \"$@\" & while [ ! -e imatrix.gguf.state ]; do sleep 0.01; done; \
                  kill -HUP $!; wait $!";
    let ran = run_in_shell(&bench, script, RUN);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("interrupted"), "{}", ran.stderr);
    assert!(ran.stdout.contains("Final estimate"));
}

#[test]
fn progress_says_how_many_experts_are_unseen() {
    let bench = Bench::new(&["qwen3moe"]);
    let ran = end(start(&bench, &RUN.replace("llama", "qwen3moe")), &["USR1"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line = ran.stderr.lines().find(|line| line.contains(" chunks are done, PPL ")).unwrap();
    assert!(line.contains(", 1 of ") && line.ends_with(" experts unseen"), "{line}");
}
