//! Fingerprints of everything that determines the bits of a run's sums.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::{Accumulate, ModelFingerprint};

/// A SHA-256 hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Hashes tokens as little-endian i32.
    #[must_use]
    pub fn of_tokens(tokens: &[i32]) -> Self {
        let mut hash = Sha256::new();
        let mut bytes = Vec::with_capacity(4096);
        for part in tokens.chunks(1024) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|token| token.to_le_bytes()));
            hash.update(&bytes);
        }
        Self(hash.finalize().into())
    }

    /// Hashes tokens as [`of_tokens`](Self::of_tokens) does, followed by the lengths of their documents as
    /// little-endian u64.
    #[must_use]
    pub fn of_documents(tokens: &[i32], lengths: impl IntoIterator<Item = u64>) -> Self {
        let mut hash = Sha256::new();
        tokens.chunks(1024).for_each(|part| {
            hash.update(part.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>());
        });
        lengths.into_iter().for_each(|length| hash.update(length.to_le_bytes()));
        Self(hash.finalize().into())
    }

    /// Hashes the contents of files that are in memory; the result equals that of [`of_files`](Self::of_files).
    #[must_use]
    pub fn of_contents<'b>(files: impl IntoIterator<Item = &'b [u8]>) -> Self {
        let mut hash = Sha256::new();
        for bytes in files {
            hash.update(bytes);
            hash.update((bytes.len() as u64).to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    /// Hashes files one after the other, each followed by its length as little-endian u64.
    ///
    /// # Errors
    /// An I/O error.
    pub fn of_files(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        for path in paths {
            let mut file = std::fs::File::open(path)?;
            let mut length = 0_u64;
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => {
                        length += n as u64;
                        hash.update(&buffer[..n]);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            hash.update(length.to_le_bytes());
        }
        Ok(Self(hash.finalize().into()))
    }
}

/// Formats the hash as 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let mut out = [0; 32];
        if s.len() != 64 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, digits) in out.iter_mut().zip(s.as_bytes().as_chunks::<2>().0) {
            let digits = std::str::from_utf8(digits).map_err(|_| ())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
        }
        Ok(Self(out))
    }
}

/// Everything that determines the bits of a run's sums: two runs over the same chunks with equal fingerprints have
/// equal sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// The model.
    pub model: ModelFingerprint,
    /// The draft model whose `NextN` layers are collected, if there is one.
    pub draft: Option<ModelFingerprint>,
    /// [`Digest::of_tokens`] of the whole text, including skipped tokens; for documents, [`Digest::of_documents`].
    pub text: Digest,
    /// Number of tokens in the whole text.
    pub n_tokens: u64,
    /// Tokens per chunk (`-c`).
    pub chunk_size: u32,
    /// Maximum number of tokens per decode (`-b`).
    pub n_batch: u32,
    /// Maximum number of tokens per micro-batch (`-ub`).
    pub n_ubatch: u32,
    /// How sums are added up.
    pub accumulate: Accumulate,
    /// Version of llama.cpp and whatever else of the build affects results.
    pub llama_cpp: String,
    /// Flags that affect results, and their values: `process-output` = `true`. Names must not contain `=`.
    pub flags: BTreeMap<String, String>,
}

/// A field that differs between a state file and a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Description of the field.
    pub field: String,
    /// Value in the state file.
    pub saved: String,
    /// Value in this run.
    pub current: String,
}

/// All fields that differ between a state file and a run, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The differences, the most important first.
    pub differences: Vec<Difference>,
}

impl std::error::Error for Mismatch {}

/// Formats the first four differences in one line: `the context size is 512 before, 1024 now; ...`.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        for (i, Difference { field, saved, current }) in self.differences.iter().take(SHOWN).enumerate() {
            let (semicolon, first, second) = if i == 0 { ("", " before", " now") } else { ("; ", "", "") };
            write!(f, "{semicolon}{field} is {saved}{first}, {current}{second}")?;
        }
        match self.differences.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl Fingerprint {
    /// Checks that sums of `current` may be added to those of `self`.
    ///
    /// # Errors
    /// All differences, with both values.
    pub fn compare(&self, current: &Self) -> Result<(), Mismatch> {
        let mut differences = Vec::new();
        let mut differ = |field: &str, saved: &dyn fmt::Display, current: &dyn fmt::Display| {
            let (saved, current) = (saved.to_string(), current.to_string());
            if saved != current {
                differences.push(Difference { field: field.to_owned(), saved, current });
            }
        };
        compare_models("the model", &self.model, &current.model, &mut differ);
        match (&self.draft, &current.draft) {
            (Some(saved), Some(current)) => compare_models("the draft model", saved, current, &mut differ),
            (None, None) => {}
            (saved, _) => {
                let there = |is: bool| if is { "given" } else { "none" };
                differ("the draft model", &there(saved.is_some()), &there(saved.is_none()));
            }
        }
        differ("the number of the text's tokens", &self.n_tokens, &current.n_tokens);
        differ("the text's tokens (sha256)", &self.text, &current.text);
        differ("the context size", &self.chunk_size, &current.chunk_size);
        differ("the batch size", &self.n_batch, &current.n_batch);
        differ("the micro-batch size", &self.n_ubatch, &current.n_ubatch);
        differ("--accumulate", &self.accumulate, &current.accumulate);
        let names: BTreeSet<&String> = self.flags.keys().chain(current.flags.keys()).collect();
        for name in names {
            let value = |flags: &BTreeMap<String, String>| {
                flags.get(name).map_or_else(|| "not set".to_owned(), |value| format!("'{value}'"))
            };
            differ(&format!("--{name}"), &value(&self.flags), &value(&current.flags));
        }
        differ("the build of llama.cpp", &self.llama_cpp, &current.llama_cpp);
        if differences.is_empty() { Ok(()) } else { Err(Mismatch { differences }) }
    }
}

fn compare_models(
    which: &str,
    saved: &ModelFingerprint,
    current: &ModelFingerprint,
    differ: &mut dyn FnMut(&str, &dyn fmt::Display, &dyn fmt::Display),
) {
    differ(&format!("{which}'s architecture"), &saved.architecture, &current.architecture);
    differ(&format!("{which}'s number of tensors"), &saved.n_tensors, &current.n_tensors);
    differ(&format!("{which}'s size in bytes"), &saved.n_bytes, &current.n_bytes);
    differ(&format!("{which}'s tensors by name, type and shape (sha256)"), &saved.layout, &current.layout);
    differ(&format!("{which}'s tensor data (sha256 of samples)"), &saved.sample, &current.sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_compared_and_named_with_both_values() {
        let saved = Fingerprint { flags: [("parse-special".into(), "true".into())].into(), ..Fingerprint::default() };
        assert_eq!(saved.compare(&saved), Ok(()));
        let other_model = |change: fn(&mut ModelFingerprint)| {
            let mut current = saved.clone();
            change(&mut current.model);
            current
        };
        let digest = Digest([0xab; 32]);
        for (current, field) in [
            (other_model(|m| m.architecture = "llama".into()), "architecture"),
            (other_model(|m| m.n_tensors = 1), "number of tensors"),
            (other_model(|m| m.n_bytes = 1), "size in bytes"),
            (other_model(|m| m.layout = Digest([1; 32])), "name, type and shape"),
            (other_model(|m| m.sample = Digest([1; 32])), "tensor data"),
            (Fingerprint { draft: Some(ModelFingerprint::default()), ..saved.clone() }, "draft model"),
            (Fingerprint { text: digest, ..saved.clone() }, "tokens (sha256) is 0000"),
            (Fingerprint { n_tokens: 7, ..saved.clone() }, "tokens is 0 before, 7 now"),
            (Fingerprint { chunk_size: 512, ..saved.clone() }, "the context size is 0 before, 512 now"),
            (Fingerprint { n_batch: 1, ..saved.clone() }, "the batch size"),
            (Fingerprint { n_ubatch: 1, ..saved.clone() }, "micro-batch"),
            (Fingerprint { accumulate: Accumulate::F64, ..saved.clone() }, "--accumulate is f32 before, f64 now"),
            (Fingerprint { llama_cpp: "b1".into(), ..saved.clone() }, "llama.cpp"),
            (Fingerprint { flags: BTreeMap::new(), ..saved.clone() }, "--parse-special is 'true' before, not set now"),
        ] {
            let mismatch = saved.compare(&current).unwrap_err();
            assert_eq!(mismatch.differences.len(), 1, "{mismatch}");
            assert!(mismatch.to_string().contains(field), "{mismatch}");
        }
        let many = Fingerprint { chunk_size: 1, n_batch: 2, n_ubatch: 3, n_tokens: 4, text: digest, ..saved.clone() };
        assert!(saved.compare(&many).unwrap_err().to_string().ends_with("the batch size is 0, 2; and 1 more"));
    }

    #[test]
    fn digests_are_sha256() {
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(Digest::of(b"hello").to_string(), hello);
        assert_eq!(hello.parse(), Ok(Digest::of(b"hello")));
        let tokens: Vec<i32> = (0..3000).collect();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        assert_eq!(Digest::of_tokens(&tokens), Digest::of(&bytes));
        let dir = tempfile::tempdir().unwrap();
        let files = [&b"hello"[..], b"", &bytes].map(|bytes| (dir.path().join(bytes.len().to_string()), bytes));
        for (path, bytes) in &files {
            std::fs::write(path, bytes).unwrap();
        }
        let read = Digest::of_files(files.iter().map(|(path, _)| path)).unwrap();
        assert_eq!(Digest::of_contents(files.iter().map(|(_, bytes)| *bytes)), read);
        let cut = |lengths: &[u64]| Digest::of_documents(&tokens, lengths.iter().copied());
        assert_eq!(cut(&[]), Digest::of_tokens(&tokens));
        assert_ne!(cut(&[1000, 2000]), cut(&[2000, 1000]));
        for bad in ["", &hello[1..], &hello.replace('2', "+"), &hello.replace("2c", "é")] {
            assert_eq!(bad.parse::<Digest>(), Err(()));
        }
    }
}
