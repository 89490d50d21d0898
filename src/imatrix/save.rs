//! Replaces a file so that it is whole at every instant: the old one, then the new one.

use std::fs::{self, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::early_sync::EarlySync;
use super::leftovers;

/// Symbolic links followed before giving up, as Linux does (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Bytes gathered before the system is asked to write them.
const BUFFER: usize = 1 << 18;

/// Writes a file through a temporary one in the same folder, then renames it into place.
///
/// The data is on the disk before the rename, the rename before this returns. Whatever fails, the
/// earlier file is untouched and the temporary one removed. A symbolic link stays one: what it
/// points to is replaced. A new file has the permissions the umask leaves of 0666, an existing one
/// keeps its own. What is no regular file (a pipe, `/dev/null`) is written to directly.
///
/// # Errors
/// The operating system's, saying which step failed, or what `write` returns.
pub fn save_atomic<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    save_with(path, |target| match target {
        Target::File(w) => write(w),
        Target::Stream(w) => write(w),
    })
}

/// What a file is written through.
pub(super) enum Target<'a> {
    /// A file of its own: places in it can be written again.
    File(&'a mut BufWriter<EarlySync>),
    /// A pipe, a terminal.
    Stream(&'a mut BufWriter<fs::File>),
}

/// [`save_atomic`], for who needs to know whether it is a file.
pub(super) fn save_with<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(Target<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let target = follow_links(path)?;
    let existing = existing(&target)?;
    if existing.as_ref().is_some_and(|m| !m.is_file()) {
        return write_directly(&target, write);
    }
    let folder = folder_of(&target);
    let stop = TestStop::next();
    let temporary = temporary_for(&target)?;
    let mut buffered = BufWriter::with_capacity(BUFFER, EarlySync::new(own_handle(&temporary)?));
    write(Target::File(&mut buffered))?;
    stop.at("write");
    let syncing = buffered.into_inner().map_err(|e| step("write the temporary file")(e.into_error()))?;
    if let Some(metadata) = existing {
        let permissions = metadata.permissions();
        temporary.as_file().set_permissions(permissions).map_err(step("set the output file's permissions"))?;
    }
    stop.at("fsync");
    syncing.finish().map_err(step("sync the temporary file"))?;
    stop.at("rename");
    temporary.persist(&target).map_err(|e| step("rename the temporary file")(e.error))?;
    sync_folder(folder).map_err(step("sync the output folder"))?;
    stop.at("end");
    Ok(())
}

/// For tests alone: ends the process inside a save, as a kill there would. Without the feature `test-hooks`, which a
/// program that is installed does not have, it does nothing.
///
/// `LLAMA_IMATRIX_TEST_STOP_SAVE=STAGE:K` aborts the process in its K-th save (from 1): with a part of the bytes in the
/// temporary file (`write`), with all of them (`fsync`), with all of them on the disk (`rename`), or after the save
/// (`end`). Nothing is cleaned up, and no destructor runs.
struct TestStop(Option<String>);

impl TestStop {
    fn next() -> Self {
        static SAVES: AtomicU64 = AtomicU64::new(0);
        let number = SAVES.fetch_add(1, Ordering::Relaxed) + 1;
        let wanted =
            if cfg!(feature = "test-hooks") { std::env::var("LLAMA_IMATRIX_TEST_STOP_SAVE").ok() } else { None };
        let stage = wanted.and_then(|wanted| {
            let (stage, k) = wanted.split_once(':')?;
            (k.parse() == Ok(number)).then(|| stage.to_owned())
        });
        Self(stage)
    }

    fn at(&self, stage: &str) {
        if self.0.as_deref().is_some_and(|wanted| wanted == stage) {
            std::process::abort();
        }
    }
}

/// Whether [`save_atomic`] could write here, found out without changing anything: for before a
/// long run.
///
/// # Errors
/// What `save_atomic` would report for a folder that is missing or cannot be written to, or a file
/// that must not be written.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let target = follow_links(path)?;
    if existing(&target)?.is_none_or(|m| m.is_file()) {
        temporary_for(&target)?; // removed at once
    }
    Ok(())
}

/// What is known of the file that is to be replaced, if there is one.
fn existing(target: &Path) -> io::Result<Option<fs::Metadata>> {
    let metadata = match fs::metadata(target) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(step("look at the output file")(e)),
    };
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "the output file is a folder"));
    }
    // A rename would get past a file's write protection. (Opening a pipe would wait for a reader.)
    if metadata.is_file() {
        fs::OpenOptions::new().write(true).open(target).map_err(step("open the output file"))?;
    }
    Ok(Some(metadata))
}

pub(super) fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Adds the step that failed to an error, whose kind stays.
fn step(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot {what}: {e}"))
}

/// Where a path leads once its last component is no symbolic link (the target may not exist yet): what a save replaces.
///
/// # Errors
/// Links that lead in a circle.
pub fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(target), // no link; what else may be wrong shows when it is used
        }
    }
    Err(io::Error::other(format!("more than {MAX_LINKS} symbolic links lead on from the output file")))
}

fn write_directly<E: From<io::Error>>(target: &Path, write: impl FnOnce(Target<'_>) -> Result<(), E>) -> Result<(), E> {
    let file = fs::OpenOptions::new().write(true).open(target).map_err(step("open the output file"))?;
    let mut buffered = BufWriter::with_capacity(BUFFER, file);
    write(Target::Stream(&mut buffered))?;
    buffered.flush().map_err(step("write the output file"))?;
    Ok(())
}

fn temporary_for(target: &Path) -> io::Result<tempfile::NamedTempFile> {
    let (folder, prefix) = (folder_of(target), leftovers::prefix(target));
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).rand_bytes(leftovers::RANDOM).suffix(leftovers::SUFFIX);
    // tempfile's own default is 0600; the mode given here goes to open(2), so the umask applies.
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    builder.tempfile_in(folder).map_err(|e| {
        io::Error::new(e.kind(), format!("cannot create a temporary file in folder '{}': {e}", folder.display()))
    })
}

fn own_handle(temporary: &tempfile::NamedTempFile) -> io::Result<fs::File> {
    temporary.as_file().try_clone().map_err(step("open the temporary file again"))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match fs::File::open(folder).and_then(|f| f.sync_all()) {
        // Some network and FUSE file systems know no fsync for folders; nothing more can be done.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        // A folder may be writable without being readable.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
        save_atomic(path, |w| w.write_all(bytes))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failing_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        save(&path, b"old").unwrap();
        let failed = save_atomic(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["x.gguf"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = save(&dir.path().join("none").join("x"), b"").unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
        assert!(e.to_string().contains("none"), "{e}");
        assert!(check_writable(&dir.path().join("none").join("x")).is_err());
        assert!(check_writable(dir.path()).is_err() && save(dir.path(), b"").is_err());
        check_writable(&dir.path().join("new")).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links_and_modes_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let (folder, real, link) = (dir.path().join("d"), dir.path().join("d/real"), dir.path().join("link"));
        fs::create_dir(&folder).unwrap();
        symlink("d/real", &link).unwrap();
        save(&link, b"1").unwrap(); // through a link that leads to nothing yet
        assert_eq!(fs::read(&real).unwrap(), b"1");

        let plain = dir.path().join("plain");
        fs::write(&plain, b"").unwrap();
        assert_eq!(mode(&real), mode(&plain), "a new file has the umask's permissions");

        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        save(&link, b"2").unwrap();
        assert_eq!((fs::read(&real).unwrap(), mode(&real)), (b"2".to_vec(), 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&folder), ["real"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_stays() {
        use std::os::unix::fs::FileTypeExt;
        save(Path::new("/dev/null"), b"x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_loop_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("a");
        std::os::unix::fs::symlink("a", &link).unwrap();
        assert!(save(&link, b"x").is_err());
    }
}
