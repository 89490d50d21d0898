//! GGUF files, as containers and as importance matrices: what is read is written, shown, and read again the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llama_imatrix::gguf::File;
use llama_imatrix::imatrix::{ChunkSizes, Format, Imatrix};
use llama_imatrix::report;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = File::from_bytes(data) {
        let held: usize = file.tensors().map(|tensor| tensor.data.len()).sum();
        assert!(held <= data.len(), "tensors do not overlap");
        for tensor in file.tensors() {
            let _ = tensor.to_f32();
        }
    }
    let Ok(loaded) = Imatrix::load_from(data) else { return };
    let mut imatrix = Imatrix::default();
    if imatrix.merge(&loaded, ChunkSizes { run: 512, legacy: 512 }).is_err() {
        return;
    }
    imatrix.settle_chunk_size(512);
    let _ = imatrix.coverage();
    let _ = report::show_statistics(&mut std::io::sink(), &imatrix, "fuzz");
    let _ = imatrix.write(std::io::sink(), Format::Dat);
    let mut bytes = Vec::new();
    if imatrix.write(&mut bytes, Format::Gguf).is_err() {
        return;
    }
    // A name too long for ggml loses its suffix and with it its meaning; upstream's files do the same.
    if imatrix.entries.is_empty() || imatrix.entries.iter().any(|(name, e)| name.len() > 55 || e.row_len().is_none()) {
        return;
    }
    let Ok(again) = Imatrix::load_from(&bytes) else { return };
    let mut twice = Imatrix::default();
    let _ = twice.merge(&again, ChunkSizes { run: 512, legacy: 512 });
});
