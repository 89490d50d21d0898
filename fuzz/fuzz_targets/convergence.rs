//! Convergence files: what is read is written to text that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_imatrix::convergence::ConvergenceFile;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = ConvergenceFile::parse(data) else { return };
    let mut text = Vec::new();
    file.write(&mut text).expect("what was read can be written");
    let again = ConvergenceFile::parse(&text).expect("what was written can be read");
    assert!(file == again, "the same file");
});
