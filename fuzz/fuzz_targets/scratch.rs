//! A file in memory, for readers that take a path.

use std::path::PathBuf;
use std::{env, fs, process};

/// Writes `bytes` to a file of this name, which the next call with this name replaces.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { env::temp_dir() }.join(format!("imatrix-fuzz-{}", process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a scratch file");
    path
}
