//! JSON lines: they are read or refused with the line's number, the same each time.
#![no_main]

mod scratch;

use libfuzzer_sys::fuzz_target;
use llama_imatrix::calibration::{Corpus, Input, Layout};

fuzz_target!(|data: &[u8]| {
    let path = scratch::file("lines.jsonl", data);
    let read = || Corpus::read(&[Input { path: path.clone(), raw: false }], Layout::Apart);
    let corpus = match read() {
        Ok(corpus) => corpus,
        Err(error) => {
            assert!(error.to_string().contains("lines.jsonl"), "no file in: {error}");
            assert_eq!(read().expect_err("the same again").to_string(), error.to_string());
            return;
        }
    };
    let lines = data.split(|&byte| byte == b'\n').count();
    let mut last = 0;
    for item in &corpus.items {
        let line = item.line.expect("every item is a line's");
        assert!(last < line && line <= lines, "line {line} after {last}, of {lines}");
        last = line;
    }
    assert!(read().expect("the same again") == corpus);
});
