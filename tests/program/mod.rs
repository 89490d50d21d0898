//! The program as its users run it: real models, real files, real exit codes.

mod bad_input;
mod calibration;
mod check;
mod collecting;
mod commands;
mod convergence;
mod devices;
mod download;
mod files;
mod flags;
mod flags_act;
mod flags_log;
mod inputs;
mod kld;
#[cfg(target_os = "linux")]
mod larger;
mod lens;
#[cfg(target_os = "linux")]
mod memory;
mod merge;
mod messages;
mod nan;
mod nextn;
mod products;
mod recipe;
#[cfg(unix)]
mod resume;
#[cfg(unix)]
mod saving;
mod shown;
#[cfg(unix)]
mod signals;
#[cfg(target_os = "linux")]
mod silence;
#[cfg(target_os = "linux")]
mod terminal;
mod workers;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;

/// The beginning of a legacy matrix: what may be replaced, unlike a file of another kind.
const EARLIER_MATRIX: &[u8] = b"\x01\0\0\0\x0c\0\0\0blk.0.weight an earlier matrix";

/// A folder with models and a text, in which the program runs.
struct Bench {
    dir: tempfile::TempDir,
}

/// How a run ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bench {
    /// A folder with `calibration.txt` and the models named, as `NAME.gguf`.
    fn new(models: &[&str]) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        bench.write("calibration.txt", support::text(1500, 3).as_bytes());
        for model in models {
            bench.write(&format!("{model}.gguf"), &support::build(model));
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Files in the folder that were not there at the beginning, hidden ones too.
    fn new_files(&self, known: &[&str]) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "calibration.txt" && !known.contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.dir.path()).args(args.split_whitespace());
        // OpenMP's threads spin while they wait, which takes seconds where other programs want the CPUs too.
        command.env("OMP_WAIT_POLICY", "passive");
        // The user's own configuration is none of the tests' business.
        command.env("XDG_CONFIG_HOME", self.path("config"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("LLAMA_ARG_")) {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, args: &str) -> Ran {
        run(&mut self.command(args))
    }

    fn ok(&self, args: &str) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args}\n{}", ran.stderr);
        ran
    }

    /// Runs into an error: exit code 1, a message on standard error that has all of `says`, nothing new in the folder.
    fn fails(&self, args: &str, says: &[&str]) -> Ran {
        let before = self.new_files(&[]);
        let ran = self.run(args);
        assert_eq!(ran.code, Some(1), "{args}\n{ran:?}");
        for part in says {
            assert!(ran.stderr.contains(part), "{args}: no '{part}' in\n{}", ran.stderr);
        }
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        // The lock that a killed run has left goes with the next.
        let mut after = self.new_files(&[]);
        after.retain(|name| !before.contains(name));
        assert_eq!(after, [""; 0], "{args}");
        ran
    }
}

/// The line of the text's perplexity.
fn estimate(ran: &Ran) -> &str {
    let line = ran.stdout.lines().find(|line| line.starts_with("Final estimate: PPL = "));
    line.unwrap_or_else(|| panic!("no estimate in {ran:?}"))
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_llama-imatrix"))
}

fn run(command: &mut Command) -> Ran {
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A server in this process lends the CPU: the only other device there is everywhere. `None` in builds without RPC.
fn rpc_server() -> Option<String> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("127.0.0.1:{port}");
    let endpoint = server.clone();
    let (send, stopped) = std::sync::mpsc::channel();
    let devices = llama_imatrix::llama::Backend::init().devices();
    let cpu: Vec<_> = devices.into_iter().filter(|device| device.is_cpu()).collect();
    std::thread::spawn(move || {
        send.send(
            llama_imatrix::llama::serve_rpc(&endpoint, &cpu, 1, None, std::time::Duration::ZERO)
                .unwrap_err()
                .to_string(),
        )
    });
    for _ in 0..100 {
        if let Ok(reason) = stopped.try_recv() {
            assert!(reason.contains("not supported in this build"), "{reason}");
            support::cannot_test(&reason);
            return None;
        }
        if std::net::TcpStream::connect(&server).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Some(server)
}

/// Runs `script` under sh with the program as `$0` and `args` as the rest.
#[cfg(unix)]
fn run_in_shell(bench: &Bench, script: &str, args: &str) -> Ran {
    let mut command = Command::new("sh");
    command.current_dir(bench.dir.path()).arg("-c").arg(script).arg(program().as_os_str());
    run(command.args(args.split_whitespace().map(OsStr::new)))
}
