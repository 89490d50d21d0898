//! The command line against that of llama.cpp's tool: `tests/data/flags/upstream-options.txt` lists its options.

#![expect(clippy::print_stderr, reason = "counts, for those who run the tests")]

use super::*;

const OPTIONS: &str = include_str!("../data/flags/upstream-options.txt");
const CACHE_TYPES: &str = "f32|f16|bf16|q8_0|q4_0|q4_1|iq4_nl|q5_0|q5_1";

/// An option of llama.cpp's.
struct Upstream {
    spellings: Vec<&'static str>,
    /// The shape of its value.
    value: &'static str,
    env: &'static str,
}

impl Upstream {
    fn all() -> Vec<Self> {
        let option = |line: &'static str| {
            let [spellings, value, env] = line.split('\t').collect::<Vec<_>>().try_into().expect(line);
            Self { spellings: spellings.split(' ').collect(), value, env }
        };
        OPTIONS.lines().map(option).collect()
    }

    /// Values that upstream takes, words separated by spaces.
    fn values(&self) -> Vec<String> {
        let name = self.spellings[0];
        let list = |text: &str| text.split(['|', ',']).map(str::to_owned).collect();
        match self.value {
            "" => vec![String::new()],
            "N" | "INDEX" | "SEED" => list("1"),
            "TYPE" if name == "--numa" => list("distribute|isolate|numactl"),
            "TYPE" => list(CACHE_TYPES),
            "MODE" if name == "-lm" => list("auto|none|mmap|mlock|mmap+mlock|dio"),
            "MODE" => list("on|auto|off"),
            "M" => list("ff|0xFF"),
            "lo-hi" => list("0-1|-1|1-"),
            "<0...100>" => list("0|100"),
            "START END" => list("1 2"),
            "FNAME" | "FILE" => list("calibration.txt"),
            "FNAME:SCALE,..." => vec!["a:1,b:-0.5".to_owned()],
            "N0,N1,N2,..." | "MiB0,MiB1,MiB2,..." => vec!["3,1".to_owned(), "1".to_owned()],
            "KEY=TYPE:VALUE,..." => vec!["a=int:1,b=float:0.5,c=bool:true,d=str:x".to_owned()],
            "TOKEN_ID(+/-)BIAS" => list("15043-1|15043+0.5"),
            value if value.contains("<buffer type>") => list("blk=CPU"),
            value if value.starts_with(['{', '[', '<']) && !value.contains(['>', ':']) => {
                list(&value[1..value.len() - 1])
            }
            "<0|1>" => list("0|1"),
            _ => list("x"),
        }
    }

    /// Those that are asked for instead of a run.
    fn is_special(&self) -> bool {
        ["-h", "--version", "-cl", "--completion-bash", "--list-devices"].contains(&self.spellings[0])
    }
}

/// `--version` after an option is reached if that option and its values are taken as they should be.
#[test]
fn every_option_of_upstreams_is_accepted_in_all_its_spellings() {
    let bench = Bench::new(&[]);
    let (options, mut accepted, mut spellings) = (Upstream::all(), 0, 0);
    for option in &options {
        for spelling in &option.spellings {
            for value in option.values() {
                let ran = bench.ok(&format!("{spelling} {value} --version"));
                assert!(option.is_special() || ran.stdout.starts_with("version: "), "{spelling} {value}: {ran:?}");
                assert_eq!(ran.stderr, "", "{spelling} {value}");
            }
            if let Some(long) = spelling.strip_prefix("--") {
                bench.ok(&format!("--{} {} --version", long.replace('-', "_"), option.values()[0]));
            }
            spellings += 1;
        }
        accepted += 1;
    }
    eprintln!("{accepted} of {} upstream options accepted, in {spellings} spellings", options.len());
    assert_eq!((accepted, options.len(), spellings), (135, 135, 216));
}

/// A variable is known where a warning says that the command line goes before it.
#[test]
fn every_variable_of_upstreams_is_read() {
    let bench = Bench::new(&[]);
    let mut variables = 0;
    for option in Upstream::all().iter().filter(|option| !option.env.is_empty()) {
        let value = option.values().remove(0);
        let mut names = vec![option.env.to_owned()];
        if option.spellings.iter().any(|spelling| spelling.starts_with("--no-") && option.spellings.len() > 1) {
            names.push(option.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_"));
        }
        for name in names {
            let args = format!("{} {value} --version", option.spellings[0]);
            let ran = run(bench.command(&args).env(&name, if value.is_empty() { "1" } else { &value }));
            assert_eq!(ran.code, Some(0), "{name}");
            let warning = format!(
                "warn: {} environment variable is set, but will be overwritten by command line argument",
                option.env
            );
            assert!(ran.stderr.contains(&warning), "{name}: {}", ran.stderr);
            variables += 1;
        }
    }
    eprintln!("{variables} upstream variables read");
    assert_eq!(variables, 73);
}

#[test]
fn environment_variables_set_flags_and_bad_values_are_errors() {
    let bench = Bench::new(&["llama"]);
    let args = "-f calibration.txt --chunks 2";
    let with = |env: &[(&str, &str)]| run(bench.command(args).envs(env.iter().copied()));
    let ran = with(&[("LLAMA_ARG_MODEL", "llama.gguf"), ("LLAMA_ARG_CTX_SIZE", "64"), ("LLAMA_ARG_NO_PERF", "")]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("n_ctx=64") && !ran.stderr.contains("load time"), "{}", ran.stderr);
    for (name, value) in [("LLAMA_ARG_CTX_SIZE", "many"), ("LLAMA_ARG_PERF", "maybe"), ("LLAMA_ARG_SPLIT_MODE", "x")] {
        let ran = with(&[(name, value)]);
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.stderr.contains(&format!("error while handling environment variable \"{name}\"")),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn information_flags_print_and_start_no_run() {
    let bench = Bench::new(&[]);
    for help in ["--help", "--usage"] {
        let ran = bench.ok(help);
        // Of flags without an effect there are only the names.
        let (_, folded) = ran.stdout.split_once("without an effect:").unwrap();
        for option in Upstream::all() {
            assert!(option.spellings.iter().all(|spelling| ran.stdout.contains(spelling)), "{:?}", option.spellings);
            let is_folded =
                option.spellings.iter().all(|spelling| folded.split_whitespace().any(|word| word == *spelling));
            assert!(is_folded || ran.stdout.contains(option.env), "{}", option.env);
        }
        assert!(ran.stdout.lines().all(|line| line.len() <= 110), "{}", ran.stdout);
    }
    assert_eq!(bench.ok("--list-devices").stdout.lines().next(), Some("Available devices:"));
    let ran = run(bench.command("-cl").env("LLAMA_CACHE", bench.path("none")));
    assert_eq!(ran.stdout, "number of models in cache: 0\n");
}

#[cfg(unix)]
#[test]
fn completions_work_in_bash() {
    let bench = Bench::new(&[]);
    let script = "source <(\"$0\" --completion-bash); COMP_WORDS=(llama-imatrix \"$1\" \"$2\"); COMP_CWORD=2; \
                  _llama_imatrix; echo \"${COMPREPLY[@]}\"";
    for (before, word, completed) in [
        ("-c", "--show", "--show-statistics"),
        ("--split-mode", "", "none layer row tensor"),
        ("-ctk", "q8", "q8_0"),
        ("-f", "cal", "calibration.txt"),
        ("help", "comp", "compare"),
        ("stats", "--asc", "--ascending"),
    ] {
        let mut command = std::process::Command::new("bash");
        command.current_dir(bench.dir.path()).arg("-c").arg(script).arg(program()).args([before, word]);
        assert_eq!(run(&mut command).stdout.trim(), completed, "{before} {word}");
    }
    let script = "source <(\"$0\" --completion-bash); COMP_WORDS=(llama-imatrix stats \"$1\" \"$2\"); COMP_CWORD=3; \
                  _llama_imatrix; echo \"${COMPREPLY[@]}\"";
    for (before, word, completed) in [
        ("--sort", "h_", "h_norm"),
        ("--by", "", "tensor layer expert lens prism similarity"),
        ("--format", "c", "csv"),
    ] {
        let mut command = std::process::Command::new("bash");
        command.current_dir(bench.dir.path()).arg("-c").arg(script).arg(program()).args([before, word]);
        assert_eq!(run(&mut command).stdout.trim(), completed, "{before} {word}");
    }
}
