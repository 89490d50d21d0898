//! Models larger than memory, and `--ubatch-size auto`.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const MIB: u64 = 1 << 20;

/// A control group of limited memory, of version 1 or 2. Removed when dropped.
struct Group(PathBuf);

impl Group {
    /// `None` if this system allows none: the test cannot run.
    fn new(name: &str, memory: u64) -> Option<Self> {
        let made = Self::make(name, memory);
        made.map_err(|reason| support::cannot_test(&reason)).ok()
    }

    fn make(name: &str, memory: u64) -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let is_v2 = controllers.split_whitespace().any(|name| name == "memory");
        let (root, limit) = if is_v2 {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            (root.to_owned(), "memory.max")
        } else {
            (root.join("memory"), "memory.limit_in_bytes")
        };
        let folder = root.join(format!("imatrix-test-{}-{name}", std::process::id()));
        let why = |error| format!("no control group of limited memory can be made: {}: {error}", folder.display());
        fs::create_dir(&folder).map_err(why)?;
        let group = Self(folder.clone());
        fs::write(group.0.join(limit), memory.to_string()).map_err(why)?;
        Ok(group)
    }

    /// Runs the program in the group.
    fn run(&self, bench: &Bench, args: &str) -> Ran {
        let mut command = Command::new("sh");
        let plain = bench.command(args);
        command.arg("-c").arg("echo $$ > \"$0\" && exec \"$@\"").arg(self.0.join("cgroup.procs"));
        command.arg(program()).args(plain.get_args()).current_dir(bench.dir.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        run(&mut command)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The N of `-b N -ub N` in the log, which must be equal.
fn sizes(ran: &Ran) -> usize {
    let (_, rest) = ran.stderr.split_once("-b ").unwrap_or_else(|| panic!("no -b in\n{}", ran.stderr));
    let words: Vec<&str> = rest.split([' ', ':']).take(3).collect();
    let [n_batch, "-ub", n_ubatch] = words[..] else { panic!("{words:?} in\n{}", ran.stderr) };
    assert_eq!(n_batch, n_ubatch, "{}", ran.stderr);
    n_batch.parse().unwrap()
}

#[test]
fn auto_reads_a_model_larger_than_memory_once_for_several_chunks() {
    let Some(group) = Group::new("auto", 128 * MIB) else { return };
    let bench = Bench::new(&["llama-wide"]);
    let flags = "-m llama-wide.gguf -f calibration.txt -c 16 --chunks 8 --no-ppl -t 2";
    let auto = group.run(&bench, &format!("{flags} -ub auto -o auto.gguf"));
    assert_eq!(auto.code, Some(0), "{}", auto.stderr);
    assert!(auto.stderr.contains("of weights do not fit into"), "{}", auto.stderr);
    let n = sizes(&auto);
    assert!((32..=128).contains(&n) && n.is_multiple_of(16), "{}", auto.stderr);
    let passes = 128 / n;
    assert!(auto.stderr.contains(&format!("{passes} times for 8 chunks")) || passes == 1, "{}", auto.stderr);
    assert!(auto.stderr.contains("more passes over the weights take about"), "{}", auto.stderr);

    bench.ok(&format!("{flags} -b {n} -ub {n} -o explicit.gguf"));
    assert!(bench.read("auto.gguf") == bench.read("explicit.gguf"), "-b {n} -ub {n}");

    let dry = group.run(&bench, &format!("{flags} -ub auto --dry-run"));
    assert!(dry.stdout.contains(&format!("-b {n} -ub {n}\nreading     ")), "{}\n{}", dry.stdout, dry.stderr);
    assert!(dry.stdout.contains("\nlanes       1\n"), "a second lane reads all weights once more:\n{}", dry.stdout);

    let plain = group.run(&bench, &format!("{flags} -b 16 -o plain.gguf"));
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    assert!(plain.stderr.contains("8 times for 8 chunks"), "{}", plain.stderr);
}

/// Whether ggml repacks `Q4_K` for this CPU, as for those with AVX2 and many others.
fn repacks(bench: &Bench, flags: &str) -> bool {
    let stderr = bench.ok(&format!("{flags} --dry-run -v")).stderr;
    let buffers = ["CPU_REPACK", "AMX"].map(|name| format!("cannot be used with preferred buffer type {name}"));
    buffers.iter().any(|buffer| stderr.contains(buffer))
}

#[test]
fn auto_does_not_repack_weights_whose_copies_are_larger_than_memory() {
    let bench = Bench::new(&["k-quants-wide"]);
    let flags = "-m k-quants-wide.gguf -f calibration.txt -c 16 --chunks 8 --no-ppl -t 2";
    if !repacks(&bench, flags) {
        return support::cannot_test("ggml repacks no weights for this CPU");
    }
    let Some(group) = Group::new("repacked", 88 * MIB) else { return };
    let auto = group.run(&bench, &format!("{flags} -ub auto -o auto.gguf"));
    assert_eq!(auto.code, Some(0), "{}", auto.stderr);
    assert!(auto.stderr.contains("--no-repack: llama.cpp would copy"), "{}", auto.stderr);
    let n = sizes(&auto);
    bench.ok(&format!("{flags} --no-repack -b {n} -ub {n} -o explicit.gguf"));
    assert!(bench.read("auto.gguf") == bench.read("explicit.gguf"), "-b {n} -ub {n}");

    let plain = group.run(&bench, &format!("{flags} --dry-run"));
    assert!(plain.stderr.contains("hint: --no-repack, or --ubatch-size auto"), "{}", plain.stderr);
}

/// They would fit, and leave too little for activations.
#[test]
fn auto_does_not_repack_weights_whose_copies_leave_no_room() {
    let Some(group) = Group::new("no-room", 110 * MIB) else { return };
    let bench = Bench::new(&["k-quants-wide"]);
    let flags = "-m k-quants-wide.gguf -f calibration.txt -c 16 --chunks 8 --no-ppl -t 2";
    if !repacks(&bench, flags) {
        return support::cannot_test("ggml repacks no weights for this CPU");
    }
    let auto = group.run(&bench, &format!("{flags} -ub auto"));
    assert_eq!(auto.code, Some(0), "{}", auto.stderr);
    assert!(auto.stderr.contains("--no-repack: llama.cpp would copy"), "{}", auto.stderr);
    let plain = group.run(&bench, &format!("{flags} --dry-run"));
    assert!(plain.stderr.contains("hint: --no-repack, or --ubatch-size auto"), "{}", plain.stderr);
}

/// Copies are not read again, however little memory they leave.
#[test]
fn repacked_weights_that_fit_are_read_once() {
    let Some(group) = Group::new("copies", 232 * MIB) else { return };
    let bench = Bench::new(&["k-quants-wide"]);
    let flags = "-m k-quants-wide.gguf -f calibration.txt -c 16 --chunks 8 --no-ppl -t 2";
    let ran = group.run(&bench, &format!("{flags} -b 16"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stderr.contains("do not fit") && !ran.stderr.contains("hint: --no-repack"), "{}", ran.stderr);

    // The activations of llama.cpp's 512 tokens do not fit beside the copies, and those of the whole text do.
    let auto = group.run(&bench, &format!("{flags} -ub auto"));
    assert_eq!(auto.code, Some(0), "{}", auto.stderr);
    assert!(auto.stderr.contains("-b 128 -ub 128: the model fits into memory beside"), "{}", auto.stderr);
    assert!(!auto.stderr.contains("--no-repack"), "{}", auto.stderr);
}

#[test]
fn sizes_that_are_given_stay() {
    let Some(group) = Group::new("given", 128 * MIB) else { return };
    let bench = Bench::new(&["llama-wide"]);
    let flags = "-m llama-wide.gguf -f calibration.txt -c 16 --chunks 8 --no-ppl --dry-run";
    let given = group.run(&bench, &format!("{flags} -b 16 -ub 16"));
    assert!(given.stdout.contains("-b 16 -ub 16\nreading     "), "{}\n{}", given.stdout, given.stderr);
    assert!(!given.stderr.contains("hint"), "{}", given.stderr);
    let default = group.run(&bench, flags);
    assert!(default.stdout.contains("-b 2048 -ub 512"), "{}", default.stdout);
}

#[test]
fn auto_keeps_llama_cpps_sizes_for_a_model_that_fits() {
    let bench = Bench::new(&["llama"]);
    let flags = "-m llama.gguf -f calibration.txt --chunks 2 -c 64";
    let ran = bench.ok(&format!("{flags} --ubatch-size auto -o auto.gguf"));
    assert!(ran.stderr.contains("the model fits into memory: -b 2048 -ub 512"), "{}", ran.stderr);
    bench.ok(&format!("{flags} -o default.gguf"));
    assert!(bench.read("auto.gguf") == bench.read("default.gguf"));
    let dry = bench.ok(&format!("{flags} -ub auto --dry-run"));
    assert!(dry.stdout.contains("-b 2048 -ub 512") && !dry.stdout.contains("reading"), "{}", dry.stdout);
}

#[test]
fn a_resumed_run_keeps_the_sizes_of_its_state() {
    let bench = Bench::new(&["llama"]);
    let flags = "-m llama.gguf -f calibration.txt --chunks 9 -c 64 --lanes 1";
    bench.ok(&format!("{flags} -b 128 -ub 128 -o whole.gguf"));
    let stopped = bench
        .command(&format!("{flags} -b 128 -ub 128 --state-frequency 2"))
        .env("LLAMA_IMATRIX_TEST_STOP_SAVE", "end:2")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!stopped.status.success());
    let ran = bench.ok(&format!("{flags} -ub auto --resume"));
    assert!(ran.stderr.contains("-b 128 -ub 128, as in the state that is resumed"), "{}", ran.stderr);
    assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"));
}

#[test]
fn auto_is_refused_where_batches_must_not_depend_on_memory() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -ub auto";
    bench.fails(
        &format!("{run} --shard 0/2"),
        &["--ubatch-size auto cannot be combined with --shard", "hint: --dry-run"],
    );
    bench.fails(
        &format!("{run} -b 64 --nextn"),
        &["--ubatch-size auto cannot be combined with '--nextn'", "hint: -b 64 -ub 64"],
    );
    bench.fails("-m llama.gguf -f calibration.txt -ub many", &["'many' is not a whole number or auto"]);
}
