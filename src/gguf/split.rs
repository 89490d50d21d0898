//! Files of a split model.

use std::path::{Path, PathBuf};

use super::{File, Value};

/// Maximum number of files: llama.cpp numbers them with five digits.
const MAX_FILES: u64 = 99_999;

impl File<'_> {
    /// Returns the number of files that the model in this file consists of, by its `split.count`.
    pub(crate) fn split_count(&self) -> u64 {
        self.get("split.count").and_then(Value::as_u64).unwrap_or(1).max(1)
    }

    /// Returns the paths of all files of a model, of which this is the first one and has the path `first`. `None` if its
    /// name is not that of the first of as many files.
    pub(crate) fn split_files(&self, first: &Path) -> Option<Vec<PathBuf>> {
        let count = self.split_count();
        if count > MAX_FILES {
            return None;
        }
        let others = (2..=count).map(|number| name_of(first, number, count));
        std::iter::once(Some(first.to_owned())).chain(others).collect()
    }
}

/// Returns the name of a file of a split model: `name-00002-of-00003.gguf` for the first file
/// `name-00001-of-00003.gguf`.
fn name_of(first: &Path, number: u64, count: u64) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(first.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf")))
}
