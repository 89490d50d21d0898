//! Legacy files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_imatrix::imatrix::{ChunkSizes, Format, Imatrix};

fuzz_target!(|data: &[u8]| {
    let Ok(loaded) = Imatrix::load_from(data) else { return };
    let values: usize = loaded.entries.values().map(|entry| entry.sum2.len()).sum();
    assert!(values * 4 <= data.len(), "no more values than bytes");
    let mut imatrix = Imatrix::default();
    let Ok(_) = imatrix.merge(&loaded, ChunkSizes { run: 512, legacy: 512 }) else { return };
    imatrix.settle_chunk_size(512);
    let _ = imatrix.write(std::io::sink(), Format::Gguf);
    let mut bytes = Vec::new();
    if imatrix.write(&mut bytes, Format::Dat).is_ok() && imatrix.entries.values().any(|e| e.counts != [0]) {
        let again = Imatrix::load_from(&bytes);
        // Entries without a name or values are written and not read: there is nothing in them.
        if let Ok(again) = again {
            assert!(again.entries.len() <= imatrix.entries.len());
        }
    }
});
