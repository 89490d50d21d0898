//! Matrices that exist: opened, checked, added up.

use std::collections::BTreeMap;

use anyhow::Context as _;
use llama_imatrix::imatrix::{ChunkSizes, File, Imatrix, Loaded, Numbers, Slice, Values};

use crate::ui::log;

/// Maps files; numbers are read on use.
pub(crate) fn open(files: &[String]) -> anyhow::Result<Vec<(&str, File<'static>)>> {
    files.iter().map(|file| Ok((file.as_str(), File::open(file).with_context(|| failed(file))?))).collect()
}

fn failed(file: &str) -> String {
    format!("failed to load imatrix '{file}'")
}

pub(crate) fn load<'f>(
    files: &'f [(&str, File<'static>)],
    sizes: ChunkSizes,
) -> anyhow::Result<Vec<(&'f str, Loaded<Slice<'f>>)>> {
    let load = |(name, file): &'f (&str, File<'static>)| {
        log::info(format_args!("loading imatrix from '{name}'"));
        let loaded = file.load().with_context(|| failed(name))?;
        if loaded.is_legacy {
            log::info(format_args!(
                "'{name}' does not store its chunk size: {} tokens are assumed; --legacy-chunk-size changes that",
                sizes.legacy
            ));
        }
        Ok((*name, loaded))
    };
    files.iter().map(load).collect()
}

pub(crate) fn add_up<'f>(
    files: &'f [(&str, Loaded<Slice<'f>>)],
    sizes: ChunkSizes,
) -> anyhow::Result<Imatrix<Numbers<'f>>> {
    let mut imatrix = Imatrix::new();
    for (name, loaded) in files {
        let warnings = imatrix.merge(loaded, sizes).with_context(|| format!("cannot add '{name}'"))?;
        for warning in warnings {
            log::warn(format_args!("'{name}': {warning}"));
        }
    }
    Ok(imatrix)
}

/// Describes the first number that no run writes, and counts the entries that have one.
pub(crate) fn invalid(name: &str, loaded: &Loaded<impl Values>) -> Option<String> {
    let invalid = loaded.invalid();
    let more = match invalid.len().saturating_sub(1) {
        0 => String::new(),
        1 => " (and 1 more entry is invalid)".to_owned(),
        more => format!(" (and {more} more entries are invalid)"),
    };
    invalid.first().map(|first| format!("'{name}': {first}{more}"))
}

/// Warns of numbers that no run writes.
pub(crate) fn warn_of_invalid(files: &[(&str, Loaded<Slice<'_>>)]) {
    for problem in files.iter().filter_map(|(name, loaded)| invalid(name, loaded)) {
        log::warn(format_args!("{problem}"));
    }
}

/// Warns of names that not all files have: matrices of one model have the same.
pub(crate) fn warn_of_names<'f, V: 'f>(files: impl Iterator<Item = (&'f str, &'f Loaded<V>)> + Clone) {
    let n_files = files.clone().count();
    let mut in_files: BTreeMap<&str, usize> = BTreeMap::new();
    for weight in files.clone().flat_map(|(_, loaded)| loaded.entries.keys()) {
        *in_files.entry(weight).or_default() += 1;
    }
    let total = in_files.len();
    in_files.retain(|_, n| *n < n_files);
    if in_files.is_empty() {
        return;
    }
    let has = |(name, loaded): (&str, &Loaded<V>)| {
        let n = loaded.entries.keys().filter(|weight| in_files.contains_key(weight.as_str())).count();
        format!("{n} of them in '{name}'")
    };
    log::warn(format_args!(
        "{} of {total} names are not in all files: {}; are these matrices of one model?",
        in_files.len(),
        files.map(has).collect::<Vec<_>>().join(", ")
    ));
}
