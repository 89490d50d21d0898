//! A lock that keeps two runs from writing the same output.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::bail;
use fs4::fs_std::FileExt as _;
use llama_imatrix::atomic_file::follow_links;

use crate::ui::log;

/// Times that another run may end just when this one has opened its file.
const TRIES: usize = 10;
/// What is in a lock file: a file that says anything else is not ours, and stays.
const CONTENTS: &[u8] = b"llama-imatrix is writing the file of this name\n";
/// Bytes of an output's name that go into the lock's: file systems take 255 in all.
const MAX_NAME: usize = 200;

/// Held for as long as a run lasts: a lock on `.OUTPUT.imatrix-lock`, which goes with it. The system gives it up with the
/// process, however that ends, so that a file which a kill has left is in nobody's way.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Locked while it is open.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Fails where another run has it. `None` where the file system knows no locks.
    pub(crate) fn take(output: &Path) -> anyhow::Result<Option<Self>> {
        let path = beside(output)?;
        match lock(&path) {
            Ok(Some(file)) => Ok(Some(Self { _file: file, path })),
            Ok(None) => bail!(
                "another run is writing '{}' (it holds '{}')\nhint: wait for it, or name another file with --output",
                output.display(),
                path.display()
            ),
            Err(error) => {
                log::warn(format_args!("'{}' cannot be locked against other runs: {error}", path.display()));
                Ok(None)
            }
        }
    }

    /// Fails where another run has it, for before a model is loaded; then it is taken. (A signal ends a program that
    /// still loads at once, and would leave the file.)
    pub(crate) fn check(output: &Path) -> anyhow::Result<()> {
        if beside(output)?.exists() { Self::take(output).map(drop) } else { Ok(()) }
    }
}

fn beside(output: &Path) -> io::Result<PathBuf> {
    let target = follow_links(output)?;
    let name = target.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    Ok(target.with_file_name(format!(".{}.imatrix-lock", &name[..end])))
}

/// The locked file; `None` where another process has locked it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        let (file, is_new) = open(path)?;
        match file.try_lock_exclusive() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                if is_new {
                    let _ = std::fs::remove_file(path);
                }
                return Err(error);
            }
        }
        // A run that ended in between has removed it: then what is locked is not what others will open.
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
    Err(io::Error::other("it is removed again and again"))
}

/// Opens the file, and says whether it was created. A file that is there is not changed.
fn open(path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().create_new(true).read(true).write(true).open(path) {
        Ok(mut file) => {
            file.write_all(CONTENTS)?;
            Ok((file, true))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match OpenOptions::new().read(true).write(true).open(path) {
                // Removed in between: the file that is locked next time is another.
                Err(error) if error.kind() == io::ErrorKind::NotFound => open(path),
                opened => Ok((opened?, false)),
            }
        }
        Err(error) => Err(error),
    }
}

/// Returns true if a run of this program has created the file.
fn is_ours(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut found = Vec::new();
    file.take(CONTENTS.len() as u64 + 1).read_to_end(&mut found).is_ok() && found == CONTENTS
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere an open file keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock is given up, so that it is no other run's. What stays does no harm.
        if is_ours(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_holds_the_lock_and_the_lock_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("imatrix.gguf");
        let names = || std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        std::fs::write(dir.path().join(".imatrix.gguf.imatrix-lock"), CONTENTS).unwrap(); // left by a kill
        let first = Lock::take(&output).unwrap();
        assert!(first.is_some());
        let error = Lock::take(&output).unwrap_err().to_string();
        assert!(
            error.starts_with("another run is writing '") && error.contains(".imatrix.gguf.imatrix-lock'"),
            "{error}"
        );
        assert!(Lock::take(&dir.path().join("other.gguf")).unwrap().is_some());
        assert_eq!(names(), [".imatrix.gguf.imatrix-lock"]);
        drop(first);
        assert_eq!(names(), [""; 0]);
        assert!(Lock::take(&output).unwrap().is_some());
        assert!(Lock::take(&dir.path().join("é".repeat(127))).unwrap().is_some());
        assert_eq!(names(), [""; 0]);
    }

    /// Neither `OUTPUT.lock`, which many programs use, nor a file that happens to have the lock's own name.
    #[test]
    fn a_lock_leaves_files_of_others_alone() {
        for name in ["Cargo.lock", ".Cargo.imatrix-lock"] {
            for contents in [&b"deps"[..], b""] {
                let dir = tempfile::tempdir().unwrap();
                let file = dir.path().join(name);
                std::fs::write(&file, contents).unwrap();
                let lock = Lock::take(&dir.path().join("Cargo")).unwrap();
                assert!(lock.is_some() && Lock::take(&dir.path().join("Cargo")).is_err(), "{name}");
                drop(lock);
                assert_eq!(std::fs::read(&file).unwrap(), contents, "{name}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn two_names_of_one_file_are_one_output() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("real.gguf", dir.path().join("link.gguf")).unwrap();
        let _held = Lock::take(&dir.path().join("link.gguf")).unwrap();
        assert!(Lock::take(&dir.path().join("real.gguf")).is_err());
    }

    #[test]
    fn concurrent_runs_never_hold_the_lock_together() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("imatrix.gguf");
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Ok(lock) = Lock::take(&output) else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 0);
    }
}
