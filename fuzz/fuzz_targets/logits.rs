//! Files of `llama-perplexity --save-all-logits`: every row of one that is opened is read or refused.
#![no_main]

mod scratch;

use libfuzzer_sys::fuzz_target;
use llama_imatrix::calibration::{ChunkOptions, Chunks};
use llama_imatrix::lens::base::LogitsFile;

/// Rows that are read of a file.
const MOST_ROWS: usize = 64;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = LogitsFile::open(&scratch::file("base.logits", data)) else { return };
    let number = |at: usize| i32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes")) as usize;
    let (n_ctx, n_vocab, n_chunk) = (number(8), number(12), number(16));
    let mut row = Vec::new();
    for (chunk, position) in (0..n_chunk).flat_map(|chunk| file.positions().map(move |at| (chunk, at))).take(MOST_ROWS) {
        row.clear();
        if file.append_row(chunk, position, &mut row).is_ok() {
            assert_eq!(row.len(), n_vocab);
            assert!(row.iter().all(|value| !value.is_nan()), "chunk {chunk}, position {position}");
        }
    }
    // Its own tokens, as far as a run has at least two chunks.
    let tokens = data[20..][..4 * n_chunk * n_ctx].chunks_exact(4);
    let tokens: Vec<i32> = tokens.map(|bytes| i32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect();
    if let Ok(chunks) = Chunks::new(tokens, ChunkOptions { size: n_ctx, ..ChunkOptions::default() }) {
        assert_eq!(file.check(n_vocab, &chunks, 0).expect("its own text"), n_chunk);
        assert!(file.check(n_vocab + 1, &chunks, 0).is_err());
    }
});
