//! Files that are replaced as a whole: at every instant there is the old file or the new one.
//!
//! [`save`] writes a temporary file beside its target, syncs it and renames it. Where no file can be renamed to the
//! target's name, it writes in place; what is no regular file gets the bytes as a stream. [`Way::of`] says before a run
//! which of the three it will be.

mod leftovers;
mod links;
mod prepare;
mod test_stop;
mod way;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

pub use leftovers::{is_leftover, remove_leftovers};
pub use links::follow_links;
use prepare::{Prepared, prepare};
use test_stop::TestStop;
pub use way::{Obstacle, Way};

/// Bytes gathered before the system is asked to write them.
const BUFFER: usize = 1 << 18;

/// Writes a file so that it is the old one or the new one at every instant, if that is possible: see [`Way`].
///
/// A file that is replaced has its data on the disk before the rename, and the rename before this returns. Whatever
/// fails, the earlier file is untouched and the temporary one removed. A symbolic link stays one: its target is
/// replaced. A new file has the permissions that the umask leaves of 0666. An existing file keeps its permissions, and
/// its owner and group where the system allows it.
///
/// # Errors
/// The operating system's, saying which step failed, or what `write` returns.
pub fn save<E: From<io::Error>>(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E> {
    save_prepared(prepare(path)?, write)
}

/// As [`save`], for a caller that has found out the [`Way`] before. A file that could be replaced then is never written
/// in place: if its folder takes no files any more, the earlier file stays as it is.
///
/// # Errors
/// As [`save`], and if the file can no longer be replaced as a whole.
pub fn save_as<E: From<io::Error>>(
    path: &Path,
    way: Way,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    match (prepare(path)?, way) {
        (Prepared::InPlace { obstacle, .. }, Way::Replace) => {
            let reason = format!("it can no longer be replaced as a whole: {obstacle}");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, reason).into())
        }
        (prepared, _) => save_prepared(prepared, write),
    }
}

fn save_prepared<E: From<io::Error>>(
    prepared: Prepared,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let stop = TestStop::next();
    match prepared {
        Prepared::Replace { target, existing, temporary } => {
            write_file(own_handle(&temporary)?, write, &stop, || match &existing {
                Some(metadata) => keep_owner_and_mode(temporary.as_file(), metadata),
                None => Ok(()),
            })?;
            stop.at("rename");
            temporary.persist(&target).map_err(|e| step("rename the temporary file")(e.error))?;
            sync_folder(folder_of(&target)).map_err(step("sync the output folder"))?;
        }
        Prepared::InPlace { target, .. } => {
            let file = fs::OpenOptions::new().write(true).truncate(true).open(&target);
            write_file(file.map_err(step("open the output file"))?, write, &stop, || Ok(()))?;
        }
        Prepared::Stream { target } => {
            let mut buffered = BufWriter::with_capacity(BUFFER, prepare::open_stream(&target)?);
            write(&mut buffered)?;
            buffered.flush().map_err(step("write the output file"))?;
        }
    }
    stop.at("end");
    Ok(())
}

/// Writes a new file to `folder` and says where it is. Its name begins with `name`'s and cannot be predicted, and the
/// file is created exclusively: a file or a link that another user has put there is never written to.
///
/// # Errors
/// As [`save`].
pub fn save_new<E: From<io::Error>>(
    folder: &Path,
    name: &OsStr,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let stop = TestStop::next();
    let temporary = prepare::new_file(folder, name)?;
    write_file(own_handle(&temporary)?, write, &stop, || Ok(()))?;
    let (_, path) = temporary.keep().map_err(|e| step("keep the file")(e.error))?;
    sync_folder(folder).map_err(step("sync the folder"))?;
    Ok(path)
}

/// Writes a regular file from its beginning, and returns once the data is on the disk.
fn write_file<E: From<io::Error>>(
    file: File,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    stop: &TestStop,
    before_sync: impl FnOnce() -> io::Result<()>,
) -> Result<(), E> {
    let mut buffered = BufWriter::with_capacity(BUFFER, file);
    write(&mut buffered)?;
    stop.at("write");
    let file = buffered.into_inner().map_err(|e| step("write the file")(e.into_error()))?;
    before_sync()?;
    stop.at("fsync");
    file.sync_all().map_err(step("sync the file"))?;
    Ok(())
}

/// The mode last: a change of the owner clears bits of it.
fn keep_owner_and_mode(file: &File, existing: &fs::Metadata) -> io::Result<()> {
    #[cfg(unix)]
    keep_owner(file, existing)?;
    file.set_permissions(existing.permissions()).map_err(step("set the output file's permissions"))
}

/// Only the superuser may give a file away, and only a group's members may give a file to it: else it stays ours.
#[cfg(unix)]
fn keep_owner(file: &File, existing: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let ours = file.metadata().map_err(step("look at the temporary file"))?;
    let (uid, gid) = (existing.uid(), existing.gid());
    if (ours.uid(), ours.gid()) != (uid, gid) && fchown(file, Some(uid), Some(gid)).is_err() && ours.gid() != gid {
        let _ = fchown(file, None, Some(gid));
    }
    Ok(())
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Adds the step that failed to an error, whose kind stays.
fn step(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot {what}: {e}"))
}

fn own_handle(temporary: &tempfile::NamedTempFile) -> io::Result<File> {
    temporary.as_file().try_clone().map_err(step("open the temporary file again"))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|f| f.sync_all()) {
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
mod tests;
