//! The model's file, by its first bytes: what is no model is refused before anything else is said about it.

use std::io::Read as _;
use std::path::Path;

use anyhow::bail;
use llama_imatrix::gguf::{self, Kind};

use super::hints::{NOT_GGUF, of_kind};
use crate::args::Flags;

/// Refuses a `--model` that is an importance matrix, another GGUF file or no GGUF file. What cannot be read passes: the error
/// comes when the model is loaded.
pub(super) fn refuse_other_kinds(flags: &Flags) -> anyhow::Result<()> {
    let Some(path) = flags.model.as_deref().filter(|_| flags.remote.named().is_none()) else { return Ok(()) };
    if !path.is_file() {
        return Ok(());
    }
    let shown = path.display();
    let Ok(file) = gguf::File::open(path) else {
        if let Some(found) = other_magic(path) {
            bail!("'{shown}' is not a GGUF file: it begins with {found:?}, expected \"GGUF\"\nhint: {NOT_GGUF}");
        }
        return Ok(());
    };
    let kind = Kind::of(&file);
    match of_kind(&kind) {
        Some(hint) => bail!("'{shown}' is not a model, but {kind}\nhint: {hint}"),
        None => Ok(()),
    }
}

/// The first bytes of a file that does not begin as a GGUF file does.
fn other_magic(path: &Path) -> Option<String> {
    let mut found = Vec::new();
    std::fs::File::open(path).ok()?.take(4).read_to_end(&mut found).ok()?;
    (!gguf::MAGIC.starts_with(&found)).then(|| String::from_utf8_lossy(&found).into_owned())
}
