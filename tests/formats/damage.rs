//! Good files, cut short or damaged: an error or other numbers, never a panic.

use llama_imatrix::gguf::File;
use llama_imatrix::imatrix::{ChunkSizes, Format, Imatrix};
use llama_imatrix::report;

use super::inputs::{self, Lcg};

const SIZES: ChunkSizes = ChunkSizes { run: 512, legacy: 512 };

#[test]
fn truncation_at_every_byte_is_an_error() {
    for (name, bytes) in inputs::all() {
        let ends_well: Vec<usize> = match (name, File::from_bytes(&bytes[..])) {
            // Only the zeros behind the last tensor may be missing.
            (_, Ok(file)) => {
                let last = file.tensors().last().unwrap().data.as_ptr_range().end;
                let end = last as usize - bytes.as_ptr() as usize;
                (end..bytes.len()).collect()
            }
            // The format once ended after the entries; see dat.rs.
            ("legacy.dat", _) => vec![bytes.len() - 20, bytes.len() - 16],
            ("legacy-long.dat", _) => vec![bytes.len() - 8, bytes.len() - 4],
            _ => vec![],
        };
        for cut in 0..bytes.len() {
            let loaded = Imatrix::load_from(&bytes[..cut]);
            assert_eq!(loaded.is_ok(), ends_well.contains(&cut), "{name} cut at {cut}: {loaded:?}");
        }
    }
}

#[test]
fn random_damage_never_panics() {
    let mut lcg = Lcg(99);
    let mut survived = 0;
    for (name, whole) in inputs::all() {
        for round in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 6 {
                // Half of the damage goes to the first bytes, where the structure is.
                let reach = if lcg.next().is_multiple_of(2) { bytes.len() } else { bytes.len().min(400) };
                let at = lcg.next() as usize % reach;
                bytes[at] = match lcg.next() % 4 {
                    0 => 0xff,
                    1 => 0,
                    2 => bytes[at] ^ (1 << (lcg.next() % 8)),
                    _ => lcg.next() as u8,
                };
            }
            let Ok(loaded) = Imatrix::load_from(&bytes) else {
                continue;
            };
            let mut imatrix = Imatrix::default();
            if imatrix.merge(&loaded, SIZES).is_err() || imatrix.merge(&loaded, SIZES).is_err() {
                continue;
            }
            survived += 1;
            imatrix.settle_chunk_size(512);
            let _ = imatrix.write(std::io::sink(), Format::Gguf);
            let _ = imatrix.write(std::io::sink(), Format::Dat);
            report::show_statistics(&mut std::io::sink(), &imatrix, name).unwrap();
        }
    }
    assert!(survived > 5000, "damage mostly goes unnoticed in numbers, {survived} files did");
}
