//! The files of a folder and of the folders in it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::error::Error;

/// The files in a folder.
pub(super) fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    walk(folder, &mut HashSet::new(), &mut files).map_err(|(path, source)| Error::Read { path, source })?;
    Ok(files)
}

/// Does not enter folders in `visited` again: several links may lead to a folder, and a link in a folder may lead back
/// to it.
fn walk(
    folder: &Path,
    visited: &mut HashSet<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, std::io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| (path, source)
    };
    if !visited.insert(folder.canonicalize().map_err(at(folder))?) {
        return Ok(());
    }
    let mut entries = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>())
        .map_err(at(folder))?;
    entries.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
    entries.sort_unstable();
    for name in entries {
        let path = folder.join(name);
        let metadata = path.metadata().map_err(at(&path))?;
        if metadata.is_dir() {
            walk(&path, visited, files)?;
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Each of nine folders links to all others: there are 9! ways through them.
    #[test]
    fn folders_that_link_to_each_other_are_read_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |n: usize| dir.path().join(format!("f{n}"));
        for n in 0..9 {
            std::fs::create_dir(folder(n)).unwrap();
            std::fs::write(folder(n).join("text"), "x").unwrap();
        }
        for n in 0..9 {
            (0..9).for_each(|to| symlink(folder(to), folder(n).join(format!("to{to}"))).unwrap());
        }
        let mut real: Vec<_> = files_of(dir.path()).unwrap().iter().map(|file| file.canonicalize().unwrap()).collect();
        real.sort();
        assert_eq!(real, (0..9).map(|n| folder(n).join("text").canonicalize().unwrap()).collect::<Vec<_>>());
    }
}
