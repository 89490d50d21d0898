//! State files: what is read is written to bytes that read the same. The checksum is put right, so that what lies behind
//! it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_imatrix::imatrix::Format;
use llama_imatrix::state::{State, reseal};

fuzz_target!(|data: &[u8]| {
    let _ = State::load_from(data);
    let mut sealed = data.to_vec();
    reseal(&mut sealed);
    let Ok(state) = State::load_from(&sealed) else { return };
    let mut bytes = Vec::new();
    state.write(&mut bytes).expect("what was read can be written");
    let again = State::load_from(&bytes).expect("what was written can be read");
    let mut twice = Vec::new();
    again.write(&mut twice).expect("and written again");
    assert!(bytes == twice, "the same state gives the same bytes");
    assert!(state.fingerprint.compare(&again.fingerprint).is_ok());
    assert!(state.output.compare(&again.output).is_ok());
    let _ = state.to_imatrix().write(std::io::sink(), Format::Gguf);
});
