//! Writes the test models and a calibration text into a folder: `test-models DIR`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return fail("usage: test-models DIR");
    };
    match support::write_all(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write the models into {}: {error}", dir.display())),
    }
}

#[expect(clippy::print_stderr, reason = "a program tells its user on standard error")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
