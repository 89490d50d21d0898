//! Compressed texts: frames of gzip and zstd, good, cut, doubled and damaged. The first byte chooses between them. What is
//! decompressed is bounded, and stored blocks come out as they went in.
#![no_main]

mod scratch;

use libfuzzer_sys::fuzz_target;
use llama_imatrix::calibration::{Body, Corpus, Input, Layout};

fn read(name: &str, bytes: &[u8]) -> Result<Corpus, llama_imatrix::calibration::Error> {
    Corpus::read(&[Input { path: scratch::file(name, bytes), raw: false }], Layout::Joined)
}

/// A zstd frame of one raw block, without a checksum.
fn stored(text: &[u8]) -> Vec<u8> {
    let mut frame = 0xfd2f_b528_u32.to_le_bytes().to_vec();
    // Single segment, its size in four bytes.
    frame.push(0b1010_0000);
    frame.extend((text.len() as u32).to_le_bytes());
    frame.extend(&((text.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    frame.extend(text);
    frame
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let name = ["t.txt.gz", "t.txt.zst", "t.jsonl.gz", "t.jsonl.zst"][usize::from(kind % 4)];
    if let Err(error) = read(name, bytes) {
        assert!(error.to_string().contains(name), "no file in: {error}");
    }
    // Text without NUL bytes or a mark of another encoding is read as it is, but for the last line end.
    if bytes.is_empty() || bytes.len() > 1 << 16 || !bytes.iter().all(u8::is_ascii_graphic) || bytes.starts_with(b"GGUF") {
        return;
    }
    let corpus = read("stored.txt.zst", &stored(bytes)).expect("a stored block");
    let Body::Text(text) = &corpus.items[0].body else { panic!("not a text") };
    assert!(text == bytes, "a stored block comes out as it went in");
});
