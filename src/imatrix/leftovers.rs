//! Names of the temporary files that saves go through, and what a kill leaves of them.

use std::ffi::OsStr;
use std::path::Path;
use std::{fs, io};

use super::save::{folder_of, follow_links};

/// Bytes of a target's name that go into a temporary one: file systems take 255 in all.
const MAX_NAME: usize = 200;
/// Characters that make a temporary name its own.
pub(super) const RANDOM: usize = 6;
pub(super) const SUFFIX: &str = ".tmp";

/// The beginning of the names of `target`'s temporary files: hidden, and it tells whose they are.
pub(super) fn prefix(target: &Path) -> String {
    let name = target.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    format!(".{}.", &name[..end])
}

/// Removes what killed saves of `path`, or of its numbered copies, have left beside it; says how many files.
///
/// Only for who knows that nobody is saving there now.
///
/// # Errors
/// The operating system's.
pub fn remove_leftovers(path: &Path) -> io::Result<usize> {
    let target = follow_links(path)?;
    let prefix = prefix(&target);
    let mut removed = 0;
    for entry in fs::read_dir(folder_of(&target))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.strip_prefix(&prefix)).is_some_and(is_leftover) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a name goes on so behind the target's.
fn is_leftover(rest: &str) -> bool {
    let Some(rest) = rest.strip_suffix(SUFFIX) else { return false };
    let (copy, random) = rest.rsplit_once('.').map_or((None, rest), |(copy, random)| (Some(copy), random));
    let is_copy = |copy: &str| {
        copy.strip_prefix("at_").is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()) && copy.is_none_or(is_copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::save_atomic;

    #[test]
    fn leftovers_of_one_file_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let gone = [".x.gguf.Ab3dE6.tmp", ".x.gguf.at_30.abcdef.tmp"];
        let kept = [
            "x.gguf",
            ".x.gguf.state.abcdef.tmp",
            ".x.gguf.old.abcdef.tmp",
            ".x.gguf.at_.abcdef.tmp",
            ".x.gguf.abcdefg.tmp",
            ".x.gguf.abcde-.tmp",
            ".y.gguf.abcdef.tmp",
            "x.gguf.abcdef.tmp",
            ".x.gguf.tmp",
        ];
        for name in gone.iter().chain(&kept) {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        assert_eq!(remove_leftovers(&dir.path().join("x.gguf")).unwrap(), gone.len());
        assert!(gone.iter().all(|name| !dir.path().join(name).exists()));
        assert!(kept.iter().all(|name| dir.path().join(name).exists()));
        assert_eq!(remove_leftovers(&dir.path().join("x.gguf.state")).unwrap(), 1);
    }

    #[test]
    fn a_save_in_progress_has_such_a_name_however_long_the_target() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x.gguf", &"é".repeat(127)] {
            let path = dir.path().join(name);
            let names = || {
                let entries = fs::read_dir(dir.path()).unwrap();
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
            };
            let mut seen = Vec::new();
            save_atomic(&path, |_| {
                seen = names();
                Ok::<_, io::Error>(())
            })
            .unwrap();
            assert_eq!(seen.len(), 1);
            assert!(seen[0].strip_prefix(&prefix(&path)).is_some_and(is_leftover), "{seen:?}");
            assert_eq!(names(), [name]);
            fs::remove_file(path).unwrap();
        }
    }
}
