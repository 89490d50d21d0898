//! Lens files: what is read is written to text that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_imatrix::lens::file::LensFile;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = LensFile::parse(data) else { return };
    let text = serde_json::to_vec(&file).expect("what was read can be written");
    let again = LensFile::parse(&text).expect("what was written can be read");
    // As text, since NaN is not equal to itself.
    let twice = serde_json::to_vec(&again).expect("and written again");
    assert!(text == twice, "the same file gives the same text");
});
