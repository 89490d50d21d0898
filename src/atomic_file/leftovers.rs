//! Names of the temporary files that saves go through, and what a kill leaves of them.

use std::ffi::OsStr;
use std::path::Path;
use std::{fs, io};

use super::folder_of;
use super::links::follow_links;

/// Bytes of a target's name that go into a temporary one: file systems take 255 in all.
const MAX_NAME: usize = 200;
/// Characters that make a temporary name unique.
pub(super) const RANDOM: usize = 6;
/// The end of a temporary name, which no other program uses: leftovers are deleted.
pub(super) const SUFFIX: &str = ".imatrix-tmp";

/// The beginning of the names of `target`'s temporary files: hidden, and it tells whose they are.
pub(super) fn prefix(target: &Path) -> String {
    let name = target.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    format!(".{}.", cut(&name))
}

/// As much of a name as a temporary one has room for.
pub(super) fn cut(name: &str) -> &str {
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    &name[..end]
}

/// Removes what killed saves of `path`, or of its numbered copies, have left beside it. Returns the number of files.
///
/// Only for a caller who knows that nobody is saving there now.
///
/// # Errors
/// The operating system's.
pub fn remove_leftovers(path: &Path) -> io::Result<usize> {
    let target = follow_links(path)?;
    let prefix = prefix(&target);
    let mut removed = 0;
    for entry in fs::read_dir(folder_of(&target))? {
        let entry = entry?;
        if is_named_so(&entry.file_name(), &prefix) {
            // A folder is the probe that a save begins with, and empty.
            if entry.file_type()?.is_dir() {
                fs::remove_dir(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether `file` is called as a temporary file of `path` is: [`remove_leftovers`] would delete it.
#[must_use]
pub fn is_leftover(file: &Path, path: &Path) -> bool {
    let Ok(target) = follow_links(path) else { return false };
    let same_folder = || {
        let folder = |path: &Path| folder_of(path).canonicalize().ok();
        folder(file).is_some_and(|found| Some(found) == folder(&target))
    };
    file.file_name().is_some_and(|name| is_named_so(name, &prefix(&target))) && same_folder()
}

fn is_named_so(name: &OsStr, prefix: &str) -> bool {
    name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(is_rest)
}

/// Whether a temporary name goes on so behind its prefix.
fn is_rest(rest: &str) -> bool {
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
    use crate::atomic_file::save;

    #[test]
    fn leftovers_of_one_file_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let gone = [".x.gguf.Ab3dE6.imatrix-tmp", ".x.gguf.at_30.abcdef.imatrix-tmp"];
        let kept = [
            "x.gguf",
            ".x.gguf.state.abcdef.imatrix-tmp",
            ".x.gguf.old.abcdef.imatrix-tmp",
            ".x.gguf.at_.abcdef.imatrix-tmp",
            ".x.gguf.abcdefg.imatrix-tmp",
            ".x.gguf.abcde-.imatrix-tmp",
            ".y.gguf.abcdef.imatrix-tmp",
            "x.gguf.abcdef.imatrix-tmp",
            ".x.gguf.imatrix-tmp",
            ".x.gguf.abcdef.tmp", // of another program
            ".x.gguf.abcdef",
        ];
        for name in gone.iter().chain(&kept) {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        let target = dir.path().join("x.gguf");
        for name in gone.iter().chain(&kept) {
            assert_eq!(is_leftover(&dir.path().join(name), &target), gone.contains(name), "{name}");
        }
        assert_eq!(remove_leftovers(&target).unwrap(), gone.len());
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
            save(&path, |_| {
                seen = names();
                Ok::<_, io::Error>(())
            })
            .unwrap();
            assert_eq!(seen.len(), 1);
            assert!(seen[0].strip_prefix(&prefix(&path)).is_some_and(is_rest), "{seen:?}");
            assert_eq!(names(), [name]);
            fs::remove_file(path).unwrap();
        }
    }
}
