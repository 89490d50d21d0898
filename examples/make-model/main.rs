//! Writes what the benchmarks run on: models of random weights in real sizes, and a large importance matrix.
//!
//!     make-model NAME FILE
//!
//! The same name gives the same bytes on every machine. How good a model is does not change how fast it runs; what does
//! is there: shapes, number formats, the sizes of vocabularies, experts that are all in use.

mod file;
mod matrix;
mod pool;
#[path = "../../tests/support/rng.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' generator, of which this is a part")]
mod rng;
mod shapes;
mod vocab;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use llama_imatrix::atomic_file;
use llama_imatrix::gguf::Error;

/// Writes a file's bytes.
type Make = fn(&mut dyn Write) -> Result<(), Error>;

/// Name, what it is, and how it is made.
const FILES: &[(&str, &str, Make)] = &[
    ("dense-0.6b", "28 layers of 1024, a vocabulary of 151,936 with an output matrix of its own, Q8_0", |w| {
        shapes::dense_06b().write(w)
    }),
    ("dense-small", "12 layers of 768, a vocabulary of 32,000, f16", |w| shapes::dense_small().write(w)),
    ("moe", "10 layers, 8 of 64 experts per token, a vocabulary of 50,304, Q8_0", |w| shapes::moe().write(w)),
    ("hybrid", "10 layers of short convolutions and 6 of attention, a vocabulary of 65,536, tied, f16", |w| {
        shapes::hybrid().write(w)
    }),
    ("dense-8b", "32 layers of 4096, a vocabulary of 128,256, Q8_0, 8 GiB: for GPUs", |w| {
        shapes::dense_8b(32).write(w)
    }),
    ("dense-8b-half", "dense-8b with 16 of its layers, 4.6 GiB: how time and memory grow", |w| {
        shapes::dense_8b(16).write(w)
    }),
    ("moe-15b", "24 layers, 8 of 128 experts per token, a vocabulary of 151,936, Q8_0, 15 GiB: for GPUs", |w| {
        shapes::moe_15b().write(w)
    }),
    ("dense-4g", "9 layers of 4096, a vocabulary of 16,384, f16, 4 GiB: larger than memory", |w| {
        shapes::dense_4g().write(w)
    }),
    ("moe-4g", "10 layers, 4 of 256 experts per token, a vocabulary of 50,304, Q8_0, 4 GiB: larger than memory", |w| {
        shapes::moe_4g().write(w)
    }),
    ("matrix", "an importance matrix of 60 layers of 256 experts, 1 GiB", matrix::write),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, path] = args.as_slice() else { return fail(&usage()) };
    let Some((.., make)) = FILES.iter().find(|file| file.0 == name) else {
        return fail(&format!("nothing is called {name}\n\n{}", usage()));
    };
    match atomic_file::save(Path::new(path), |w| make(w)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write {path}: {error}")),
    }
}

fn usage() -> String {
    let lines = FILES.iter().map(|(name, about, _)| format!("\n    {name:14} {about}"));
    format!("usage: make-model NAME FILE\n{}", lines.collect::<String>())
}

#[expect(clippy::print_stderr, reason = "a program tells its user on standard error")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
