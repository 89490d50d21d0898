//! Nothing is lost when files are written: which of them are replaced, in what order, and where the bytes go.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::lens::file::LensFile;

use super::*;

const COLLECT: &str = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2";

/// Starts a run that looks into the layers, and puts a folder where its lens file goes once it has begun.
fn with_a_folder_for_a_lens_file(bench: &Bench, rescue: &Path) -> Child {
    bench.write("long.txt", support::text(8000, 1).as_bytes());
    let mut command = bench.command(
        "-m llama.gguf -f long.txt -c 64 -b 64 --lanes 1 --state-frequency 1 --layer-similarity --lens-tokens 1",
    );
    command.env("TMPDIR", rescue).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while !bench.path("imatrix.gguf.state").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first save");
        assert!(started.elapsed() < Duration::from_secs(60), "no save in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::create_dir(bench.path("imatrix.lens.json")).unwrap();
    child
}

#[test]
fn a_lens_file_that_cannot_be_written_costs_neither_matrix_nor_state() {
    for interrupt in [true, false] {
        let (bench, rescue) = (Bench::new(&["llama"]), tempfile::tempdir().unwrap());
        let child = with_a_folder_for_a_lens_file(&bench, rescue.path());
        if interrupt {
            assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for says in ["cannot save 'imatrix.lens.json'", "the output file is a folder", "the lens file is in '"] {
            assert!(stderr.contains(says), "no '{says}' in {stderr}");
        }
        let matrix = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
        assert!(matrix.chunk_count > 0);
        let state = llama_imatrix::state::State::load(bench.path("imatrix.gguf.state"));
        let state = state.unwrap_or_else(|error| panic!("the state went before all else was saved: {error}"));
        if interrupt {
            assert_eq!(matrix.chunk_count as u64, state.progress.done.len());
            assert!(stderr.contains("the same command with --resume continues it"), "{stderr}");
        } else {
            assert!(String::from_utf8_lossy(&output.stdout).contains("Final estimate"));
        }
        let rescued: Vec<_> = std::fs::read_dir(rescue.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [rescued] = &rescued[..] else { panic!("{rescued:?}") };
        LensFile::load(rescued).unwrap();
        assert!(stderr.contains(rescued.to_str().unwrap()), "{stderr}");
    }
}

#[test]
fn a_copy_that_cannot_be_written_is_an_error_at_the_end_and_the_matrix_is_saved() {
    let bench = Bench::new(&["llama"]);
    std::fs::create_dir(bench.path("imatrix.gguf.at_1")).unwrap();
    let ran = bench.run(&format!("{COLLECT} --lanes 1 --save-frequency 1"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("error: cannot save 'imatrix.gguf.at_1'"), "{}", ran.stderr);
    assert!(bench.read("imatrix.gguf") == bench.read("imatrix.gguf.at_2"));
    assert!(ran.stdout.contains("Final estimate"));
}

#[test]
fn a_file_beside_the_output_that_the_program_did_not_create_stays() {
    let bench = Bench::new(&["llama"]);
    let strangers = ["Cargo.lock", ".Cargo.imatrix-lock", ".Cargo.abcdef.tmp", ".Cargo.abcdef"];
    for name in &strangers {
        bench.write(name, b"deps");
    }
    bench.ok(&format!("{COLLECT} -o Cargo"));
    for name in &strangers {
        assert_eq!(bench.read(name), b"deps", "{name}");
    }
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("{COLLECT} -o a.gguf"));
    bench.ok(&format!("{COLLECT} --logit-lens -o lens.gguf"));
    std::fs::create_dir(bench.path("texts")).unwrap();
    bench.write("texts/log.txt", support::text(1500, 3).as_bytes());
    bench.write("t.txt", support::text(1500, 3).as_bytes());
    std::os::unix::fs::symlink("t.txt", bench.path("link.txt")).unwrap();
    std::fs::hard_link(bench.path("t.txt"), bench.path("hard.txt")).unwrap();
    let names = ["llama.gguf", "a.gguf", "lens.gguf", "lens.lens.json", "t.txt", "texts/log.txt", "calibration.txt"];
    let before: Vec<_> = names.iter().map(|name| bench.read(name)).collect();
    for (args, reader, writer) in [
        ("-m llama.gguf -f t.txt -o llama.gguf", "--model", "--output"),
        ("-m llama.gguf -f t.txt -o t.txt", "--file", "--output"),
        ("-m llama.gguf -f t.txt -o link.txt", "--file", "--output"),
        ("-m llama.gguf -bf t.txt -o hard.txt", "--binary-file", "--output"),
        ("-m llama.gguf -f texts -o texts/log.txt", "--file", "--output"),
        ("-m llama.gguf -f t.txt --log-file t.txt", "--file", "--log-file"),
        ("-m llama.gguf -f texts --log-file texts/log.txt", "--file as a part of 'texts'", "--log-file"),
        ("--in-file a.gguf -o b.gguf --log-file a.gguf", "", "the log 'a.gguf'"),
        ("-m llama.gguf -f t.txt --chat-template-file t.txt -o t.txt", "--file", "--output"),
        ("merge a.gguf lens.gguf -o a.gguf", "merge", "--output"),
        ("report a.gguf lens.gguf -o lens.gguf", "report", "--output"),
        ("report lens.gguf -o lens.lens.json", "report", "--output"),
    ] {
        let says = if reader.is_empty() { writer.to_owned() } else { format!("is read by {reader} and would be") };
        bench.fails(args, &[&says, writer, "\nhint: "]);
        for (name, before) in names.iter().zip(&before) {
            assert!(bench.read(name) == *before, "{args}: {name} has changed");
        }
    }
    // Standard output of a shell that appends to the file.
    let ran = run_in_shell(&bench, "exec \"$0\" \"$@\" >>a.gguf", "--show-statistics --in-file a.gguf");
    assert!(ran.code == Some(1) && bench.read("a.gguf") == before[1], "{ran:?}");
}

#[test]
fn an_in_file_is_replaced_where_the_output_says_so_and_never_by_default() {
    let bench = Bench::new(&["llama"]);
    bench.ok(COLLECT);
    bench.ok(&format!("{COLLECT} -o b.gguf"));
    let before = bench.read("imatrix.gguf");
    bench.fails("--in-file imatrix.gguf --in-file b.gguf", &["'imatrix.gguf' is read by --in-file", "default output"]);
    assert!(bench.read("imatrix.gguf") == before);
    bench.ok("--in-file imatrix.gguf --in-file b.gguf -o imatrix.gguf");
    bench.ok(&format!("{COLLECT} --in-file b.gguf -o b.gguf"));
    for name in ["imatrix.gguf", "b.gguf"] {
        assert_eq!(Imatrix::load(bench.path(name)).unwrap().chunk_count, 4, "{name}: two chunks and two chunks");
    }
}

#[test]
fn an_output_that_is_neither_a_matrix_nor_a_state_is_refused() {
    let bench = Bench::new(&["llama", "qwen2"]);
    bench.ok(&format!("{COLLECT} -o a.gguf"));
    bench.write("notes.txt", b"my notes");
    let whole = support::build("qwen2");
    for (args, file) in [
        (format!("{COLLECT} -o notes.txt"), "notes.txt"),
        (format!("{COLLECT} -o qwen2.gguf"), "qwen2.gguf"),
        ("--in-file a.gguf -o qwen2.gguf".to_owned(), "qwen2.gguf"),
        ("merge a.gguf -o notes.txt".to_owned(), "notes.txt"),
        ("report a.gguf -o qwen2.gguf".to_owned(), "qwen2.gguf"),
        (format!("{COLLECT} --log-file qwen2.gguf"), "qwen2.gguf"),
    ] {
        bench.fails(&args, &[file, "the file exists and is", "\nhint: "]);
        assert!(bench.read("notes.txt") == b"my notes" && bench.read("qwen2.gguf") == whole, "{args}");
    }
    // What a run of llama.cpp's tool leaves when it is killed in a save, and an empty file.
    let cut = bench.read("a.gguf");
    for bytes in [&cut[..cut.len() / 2], b""] {
        bench.write("b.gguf", bytes);
        bench.ok(&format!("{COLLECT} -o b.gguf"));
        assert!(bench.read("b.gguf") == cut);
    }
}

#[test]
fn each_shard_named_like_a_matrix_gets_its_own_state() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 6 --accumulate f64";
    bench.ok(&format!("{run} -o whole.gguf"));
    for index in 0..3 {
        bench.ok(&format!("{run} --shard {index}/3 -o s.gguf"));
    }
    let known = ["llama.gguf", "whole.gguf"];
    assert_eq!(bench.new_files(&known), ["s.0-of-3.state", "s.1-of-3.state", "s.2-of-3.state"]);
    bench.fails(
        &format!("{run} --shard 1/3 -o s.0-of-3.state"),
        &["'s.0-of-3.state' holds shard 0/3 and this is shard 1/3", "hint: give each shard its own --output"],
    );
    bench.ok("merge s.0-of-3.state s.1-of-3.state s.2-of-3.state -o merged.gguf");
    assert!(bench.read("merged.gguf") == bench.read("whole.gguf"));
}

/// The name of the copy was once made of the process's number, which can be guessed.
#[cfg(target_os = "linux")]
#[test]
fn a_link_planted_in_the_temporary_folder_is_not_followed() {
    let (bench, rescue) = (Bench::new(&["llama"]), tempfile::tempdir().unwrap());
    bench.write("victim", b"precious");
    let temp = rescue.path().display();
    let script = format!("ln -s \"$PWD/victim\" {temp}/$$-full; TMPDIR={temp} exec \"$0\" \"$@\"");
    let ran = run_in_shell(&bench, &script, &format!("{COLLECT} -o /dev/full"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(bench.read("victim"), b"precious");
    let files = std::fs::read_dir(rescue.path()).unwrap().map(|entry| entry.unwrap());
    let rescued: Vec<_> = files.filter(|file| file.file_type().unwrap().is_file()).map(|file| file.path()).collect();
    let [rescued] = &rescued[..] else { panic!("{rescued:?}") };
    Imatrix::load(rescued).unwrap();
    assert_eq!(rescued.metadata().unwrap().permissions().mode() & 0o077, 0, "for its owner alone");
}

#[test]
fn a_pipe_gets_the_matrix_once_and_nothing_is_created_beside_it() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("{COLLECT} -o whole.gguf"));
    let whole = bench.read("whole.gguf");
    let known = ["llama.gguf", "whole.gguf", "got.gguf"];
    let got = |script: &str, shell: &str, args: &str| {
        let mut command = Command::new(shell);
        command.current_dir(bench.dir.path()).arg("-c").arg(script).arg(program().as_os_str());
        let ran = run(command.args(args.split_whitespace()).env("OMP_WAIT_POLICY", "passive"));
        assert_eq!(ran.code, Some(0), "{script}\n{}", ran.stderr);
        assert!(bench.read("got.gguf") == whole, "{script}");
        std::fs::remove_file(bench.path("got.gguf")).unwrap();
        ran
    };
    let frequent = format!("{COLLECT} -ofreq 1 --save-frequency 1");
    // --log-disable keeps perplexities out of standard output.
    got("set -e; \"$0\" \"$@\" -o /dev/stdout --log-disable | cat >got.gguf", "sh", &frequent);
    got("\"$0\" \"$@\" -o /dev/stdout --log-disable >got.gguf", "sh", &frequent);
    assert_eq!(bench.new_files(&known), [""; 0]);
    let ran = got("mkfifo p; cat p >got.gguf & \"$0\" \"$@\" -o p; code=$?; wait; exit $code", "sh", &frequent);
    assert!(ran.stdout.contains("Final estimate"), "{}", ran.stdout);
    assert!(ran.stderr.contains("'p' is not a regular file: the run keeps no state"), "{}", ran.stderr);
    assert!(bench.path("p").metadata().unwrap().file_type().is_fifo());
    std::fs::remove_file(bench.path("p")).unwrap();
    if Command::new("bash").arg("-c").arg("true").status().is_ok() {
        let script = "\"$0\" \"$@\" -o >(cat >part.gguf; mv part.gguf got.gguf); code=$?; \
                      for i in $(seq 200); do [ -e got.gguf ] && break; sleep 0.05; done; exit $code";
        got(script, "bash", &frequent);
    }
    assert_eq!(bench.new_files(&known), [""; 0]);
    for flag in ["--resume", "--state-frequency 1", "--shard 0/2"] {
        bench.fails(&format!("{COLLECT} -o /dev/null {flag}"), &["requires a regular file as --output", "\nhint: "]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_created_beside_a_device() {
    let bench = Bench::new(&["llama"]);
    let beside = || std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = beside();
    let ran = bench.ok(&format!("{COLLECT} -o /dev/null --logit-lens --save-frequency 1"));
    assert!(ran.stderr.contains("'/dev/null' is not a regular file: no lens file is written"), "{}", ran.stderr);
    assert!(ran.stdout.contains("Logit lens") || ran.stdout.contains("lens"), "{}", ran.stdout);
    let is_ours = |name: &&std::ffi::OsString| name.to_string_lossy().contains("null");
    assert_eq!(beside().iter().filter(is_ours).count(), before.iter().filter(is_ours).count());
}

#[cfg(target_os = "linux")]
#[test]
fn a_failing_standard_output_is_an_error_and_the_results_are_logged() {
    let bench = Bench::new(&["llama"]);
    let full = |args: &str| run_in_shell(&bench, "exec \"$0\" \"$@\" >/dev/full", args);
    let ran = full(COLLECT);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("error: cannot write to standard output: No space left"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: Final estimate: PPL = "), "{}", ran.stderr);
    Imatrix::load(bench.path("imatrix.gguf")).unwrap();
    for args in [
        "--version",
        "--help",
        "--completion-bash",
        "--show-statistics --in-file imatrix.gguf",
        "stats imatrix.gguf",
        "stats --help",
        &format!("{COLLECT} --dry-run"),
    ] {
        assert_eq!(full(args).code, Some(1), "{args}");
        // Nobody reading on is no failure.
        let ran = run_in_shell(&bench, "{ \"$0\" \"$@\"; echo $? >code; } | true", args);
        assert_eq!((ran.code, bench.read("code")), (Some(0), b"0\n".to_vec()), "{args}");
    }
    let ran = bench.run(&format!("{COLLECT} --log-file /dev/full"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot write the log '/dev/full': No space left"), "{}", ran.stderr);
}

/// Runs a script as the superuser, with mounts of its own. `None` where this user cannot: not where CI runs.
#[cfg(target_os = "linux")]
fn run_as_root(bench: &Bench, script: &str, args: &str) -> Option<Ran> {
    let is_root = bench.path("calibration.txt").metadata().unwrap().uid() == 0;
    let namespaces: &[&str] = if is_root { &["--mount"] } else { &["--mount", "--map-root-user"] };
    let unshared = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.current_dir(bench.dir.path()).args(namespaces).args(["sh", "-c", command]).arg(program());
        unshare
    };
    if !unshared("mount --bind . .").output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "unshare --mount is needed here");
        return None;
    }
    Some(run(unshared(script).args(args.split_whitespace()).env("OMP_WAIT_POLICY", "passive")))
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_a_mount_point_is_written_in_place_and_that_is_said_before_the_run() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("{COLLECT} -o whole.gguf"));
    let whole = bench.read("whole.gguf");
    // Longer than what will be written.
    bench.write("real.gguf", &[&whole[..], &[1; 5000]].concat());
    bench.write("given.gguf", b"");
    let script = "mount --bind real.gguf given.gguf && exec \"$0\" \"$@\"";
    let Some(ran) = run_as_root(&bench, script, &format!("{COLLECT} -o given.gguf --in-file whole.gguf")) else {
        return;
    };
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let warned = ran.stderr.find("'given.gguf' is written in place, since the file is a mount point");
    assert!(warned.is_some_and(|at| at < ran.stderr.find("tokenizing").unwrap()), "{}", ran.stderr);
    bench.ok(&format!("{COLLECT} -o twice.gguf --in-file whole.gguf"));
    assert!(bench.read("real.gguf") == bench.read("twice.gguf"));
    assert_eq!(bench.read("given.gguf"), b"", "it was mounted over");
    // What is read cannot be written in place.
    let before = bench.read("real.gguf");
    for args in ["--in-file given.gguf -o given.gguf", "--in-file given.gguf --in-file whole.gguf -o given.gguf"] {
        let ran = run_as_root(&bench, script, args).unwrap();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("which cannot replace it as a whole"), "{}", ran.stderr);
        assert!(bench.read("real.gguf") == before);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn another_users_file_in_a_sticky_folder_is_written_in_place() {
    let bench = Bench::new(&["llama"]);
    if bench.path("calibration.txt").metadata().unwrap().uid() != 0 {
        return assert!(std::env::var_os("CI").is_none(), "this needs the superuser");
    }
    bench.ok(&format!("{COLLECT} -o whole.gguf"));
    std::fs::copy(program(), bench.path("program")).unwrap();
    std::fs::set_permissions(bench.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(bench.path("shared")).unwrap();
    std::fs::set_permissions(bench.path("shared"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let (old, output) = (bench.read("whole.gguf"), bench.path("shared/out.gguf"));
    bench.write("shared/out.gguf", &[&old[..], &[0; 100]].concat());
    std::os::unix::fs::chown(&output, Some(12345), Some(12345)).unwrap();
    std::fs::set_permissions(&output, std::fs::Permissions::from_mode(0o666)).unwrap();
    let before = output.metadata().unwrap();
    let script = "shift; exec setpriv --reuid 65534 --regid 65534 --clear-groups ./program \"$@\"";
    let ran = run_in_shell(&bench, script, &format!("- {COLLECT} -o shared/out.gguf"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("is written in place, since the file is another user's"), "{}", ran.stderr);
    assert!(bench.read("shared/out.gguf") == bench.read("whole.gguf"));
    let after = output.metadata().unwrap();
    assert_eq!((after.ino(), after.uid(), after.mode()), (before.ino(), 12345, before.mode()));
    assert_eq!(std::fs::read_dir(bench.path("shared")).unwrap().count(), 1, "nothing is left of the probe");
    // The superuser may replace it: the owner stays.
    let ran = bench.ok(&format!("{COLLECT} -o shared/out.gguf"));
    assert!(!ran.stderr.contains("in place"), "{}", ran.stderr);
    let replaced = output.metadata().unwrap();
    assert_eq!((replaced.uid(), replaced.gid(), replaced.mode()), (12345, 12345, before.mode()));
    assert_ne!(replaced.ino(), before.ino());
}
