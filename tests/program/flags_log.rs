//! The log's flags, and what they leave of standard output.

use super::*;

const COLLECT: &str = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2";

#[test]
fn verbosity_decides_what_is_logged() {
    let bench = Bench::new(&["llama"]);
    let stdout = bench.ok(COLLECT).stdout;
    for (args, shown, hidden) in [
        ("-lv 1", "", "tokenizing"),
        ("-lv 3", "tokenizing", "llama_model_loader"),
        ("-lv 4", "llama_model_loader", "matches expectation"),
        ("-lv 5", "matches expectation", "NUMA"),
        ("-v", "matches expectation", "NUMA"),
    ] {
        let ran = bench.ok(&format!("{COLLECT} {args}"));
        assert!(ran.stderr.contains(shown), "{args}: {}", ran.stderr);
        assert!(!ran.stderr.contains(hidden), "{args}: {}", ran.stderr);
        assert!(eta_aside(&ran.stdout) == eta_aside(&stdout), "{args}: {}", ran.stdout);
    }
}

/// Without the line that tells the time.
fn eta_aside(stdout: &str) -> String {
    stdout.lines().filter(|line| !line.ends_with("minutes")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_disabled_log_leaves_the_matrix_alone() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("{COLLECT} -o a.gguf"));
    let ran = bench.ok(&format!("{COLLECT} -o b.gguf --log-disable"));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    assert_eq!(bench.read("a.gguf"), bench.read("b.gguf"));
}

#[test]
fn a_log_file_has_all_lines_of_the_terminal() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok(&format!("{COLLECT} --log-file log.txt"));
    let log = String::from_utf8(bench.read("log.txt")).unwrap();
    assert!(ran.stderr.lines().all(|line| log.contains(line)), "{log}");
    assert!(log.contains("Final estimate: PPL = "), "{log}");
    bench.fails(&format!("{COLLECT} --log-file none/log.txt"), &["cannot write the log 'none/log.txt'"]);
}

#[test]
fn json_lines_replace_all_output() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok(&format!("{COLLECT} --log-jsonl"));
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.lines().all(|line| line.starts_with(r#"{"type":"log","time":"#) && line.ends_with("\"}")));
    assert!(ran.stdout.contains(r#""level":"none","msg":"[1]"#), "{}", ran.stdout);
    assert!(ran.stdout.contains(r#""level":"info","msg":"tokenizing"#), "{}", ran.stdout);
    let ran = run(bench.command(&format!("{COLLECT} --no-log-jsonl")).env("LLAMA_ARG_LOG_JSONL", "1"));
    assert!(ran.stdout.contains("\n[1]"), "{}", ran.stdout);
}

#[test]
fn lines_begin_as_asked_for() {
    let bench = Bench::new(&["llama"]);
    let args = format!("{COLLECT} -dt 1");
    assert!(bench.ok(&args).stderr.contains("warning: DEPRECATED: --defrag-thold"));
    assert!(
        bench.ok(&format!("{args} --log-prefix")).stderr.contains("\nW DEPRECATED: --defrag-thold") || {
            bench.ok(&format!("{args} --log-prefix")).stderr.starts_with("W DEPRECATED: --defrag-thold")
        }
    );
    let ran = bench.ok(&format!("{COLLECT} --log-prefix --log-timestamps"));
    assert!(ran.stderr.starts_with("0.00.") && ran.stderr.contains(" I tokenizing"), "{}", ran.stderr);
    let ran = bench.ok(&format!("{args} --log-colors on"));
    assert!(ran.stderr.contains("\x1b[35mDEPRECATED"), "{}", ran.stderr);
    assert!(!ran.stdout.contains('\x1b'));
    assert!(!bench.ok(&format!("{args} --log-colors auto")).stderr.contains('\x1b'));
    bench.fails(&format!("{COLLECT} --log-colors blue"), &["unknown value for --log-colors: 'blue'"]);
}

#[test]
fn repeated_flags_are_warned_of() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok(&format!("{COLLECT} --chunks 1"));
    assert!(ran.stderr.contains("DEPRECATED: argument '--chunks' specified multiple times"), "{}", ran.stderr);
    assert!(ran.stderr.contains("computing over 1 chunks"), "{}", ran.stderr);
}
