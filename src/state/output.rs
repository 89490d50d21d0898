//! Contents of a run's matrix besides its sums.

use super::fingerprint::{Difference, Digest, Mismatch};

/// Contents of a matrix besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Names of the calibration files; this run's is the last.
    pub datasets: Vec<String>,
    /// Tokens per chunk as written to the matrix: those of the matrices that the run started from, or else of the run.
    pub chunk_size: i32,
    /// Number of `NextN` layers.
    pub n_layer_nextn: i32,
    /// Digest of the matrices that the run started from, if there are any: see [`Digest::of_files`].
    pub base: Option<Digest>,
}

impl Output {
    /// Checks that a run with the output `current` may resume one with the output `self`.
    ///
    /// # Errors
    /// All differences, with both values.
    pub fn compare(&self, current: &Self) -> Result<(), Mismatch> {
        let mut differences = Vec::new();
        let mut differ = |field: &str, saved: String, current: String| {
            if saved != current {
                differences.push(Difference { field: field.to_owned(), saved, current });
            }
        };
        let names = |output: &Self| format!("'{}'", output.datasets.join("', '"));
        let base = |output: &Self| output.base.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
        differ("what --in-file names (sha256)", base(self), base(current));
        differ("the list of calibration files", names(self), names(current));
        differ("the matrix's chunk size", self.chunk_size.to_string(), current.chunk_size.to_string());
        differ("the number of NextN layers", self.n_layer_nextn.to_string(), current.n_layer_nextn.to_string());
        if differences.is_empty() { Ok(()) } else { Err(Mismatch { differences }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_compared_and_named_with_both_values() {
        let saved = Output { datasets: vec!["a.txt".into()], chunk_size: 512, ..Output::default() };
        assert_eq!(saved.compare(&saved), Ok(()));
        for (current, says) in [
            (
                Output { datasets: vec!["b.txt".into()], ..saved.clone() },
                "calibration files is 'a.txt' before, 'b.txt' now",
            ),
            (Output { chunk_size: 64, ..saved.clone() }, "chunk size is 512 before, 64 now"),
            (Output { n_layer_nextn: 1, ..saved.clone() }, "NextN layers is 0 before, 1 now"),
            (
                Output { base: Some(Digest([0xab; 32])), ..saved.clone() },
                "--in-file names (sha256) is none before, abab",
            ),
        ] {
            let mismatch = saved.compare(&current).unwrap_err();
            assert_eq!(mismatch.differences.len(), 1, "{mismatch}");
            assert!(mismatch.to_string().contains(says), "{mismatch}");
        }
    }
}
