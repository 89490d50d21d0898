//! Decides how a file is written, and makes what that needs.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::links::{Destination, destination};
use super::way::Obstacle;
use super::{folder_of, leftovers, step};

/// What a save starts with.
pub(super) enum Prepared {
    /// A temporary file that can be renamed to `target`.
    Replace { target: PathBuf, existing: Option<Box<Metadata>>, temporary: NamedTempFile },
    /// A regular file to be written over.
    InPlace { target: PathBuf, obstacle: Obstacle },
    /// What is no regular file, or a file that a process has open. It is not opened yet: a pipe would wait for a reader,
    /// who would then see its end.
    Stream { target: PathBuf },
}

/// # Errors
/// The operating system's, saying which step failed.
pub(super) fn prepare(path: &Path) -> io::Result<Prepared> {
    let target = match destination(path)? {
        Destination::Descriptor(target) => {
            existing(&target)?;
            return Ok(Prepared::Stream { target });
        }
        Destination::Name(target) => target,
    };
    let Some(metadata) = existing(&target)? else {
        let temporary = temporary_for(&target)?;
        return Ok(Prepared::Replace { target, existing: None, temporary });
    };
    if !metadata.is_file() {
        return Ok(Prepared::Stream { target });
    }
    // A rename would get past a file's write protection.
    fs::OpenOptions::new().write(true).open(&target).map_err(step("open the output file"))?;
    let obstacle = match obstacle(&target)? {
        Some(obstacle) => obstacle,
        None => match temporary_for(&target) {
            Ok(temporary) => return Ok(Prepared::Replace { target, existing: Some(Box::new(metadata)), temporary }),
            Err(error) if takes_no_files(&error) => Obstacle::Folder,
            Err(error) => return Err(error),
        },
    };
    if crate::gguf::map::is_mapped(&metadata) {
        return Err(io::Error::other(format!("it is being read, and cannot be replaced as a whole: {obstacle}")));
    }
    Ok(Prepared::InPlace { target, obstacle })
}

/// What is known of the file that is to be written, if there is one.
fn existing(target: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "the output file is a folder"))
        }
        #[cfg(unix)]
        Ok(metadata) if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the output file is a socket"))
        }
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(step("look at the output file")(e)),
    }
}

/// Why no file can be renamed to `target`, an existing regular file, if the target itself is the reason.
fn obstacle(target: &Path) -> io::Result<Option<Obstacle>> {
    if is_mount_point(target)? {
        return Ok(Some(Obstacle::MountPoint));
    }
    #[cfg(unix)]
    if is_kept_by_its_folder(target)? {
        return Ok(Some(Obstacle::StickyFolder));
    }
    Ok(None)
}

/// Whether `rename` would fail with EBUSY: the kernel refuses to rename over a name that a file system is mounted on, and
/// a path that leads to the root of a mount has such a name at its end.
#[cfg(target_os = "linux")]
fn is_mount_point(target: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    match statx(CWD, target, AtFlags::empty(), StatxFlags::BASIC_STATS) {
        // Linux 5.8 and later say it.
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Ok(_) | Err(rustix::io::Errno::NOSYS) => is_on_another_device(target),
        Err(error) => Err(step("look at the output file")(error.into())),
    }
}

#[cfg(target_os = "linux")]
fn is_on_another_device(target: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let differ = device(target).and_then(|file| Ok(file != device(folder_of(target))?));
    differ.map_err(step("look at the output file"))
}

/// Elsewhere nothing is mounted on a file.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "Linux may fail")]
fn is_mount_point(_: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Whether `rename` would fail with EPERM, as in a sticky folder where file and folder are another user's.
///
/// The kernel is asked itself: a rename of a folder to a file's name fails, with EPERM where the file may not be replaced
/// and with ENOTDIR where it may. The file is not touched either way.
#[cfg(unix)]
fn is_kept_by_its_folder(target: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    const STICKY: u32 = 0o1000;
    let folder = folder_of(target);
    if fs::metadata(folder).map_or(0, |metadata| metadata.permissions().mode()) & STICKY == 0 {
        return Ok(false);
    }
    let prefix = leftovers::prefix(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).rand_bytes(leftovers::RANDOM).suffix(leftovers::SUFFIX);
    let probe = match builder.tempdir_in(folder) {
        Ok(probe) => probe,
        // The temporary file will say so, too.
        Err(error) if takes_no_files(&error) => return Ok(false),
        Err(error) => return Err(step("create a temporary folder")(error)),
    };
    match fs::rename(probe.path(), target) {
        // Somebody has removed the file meanwhile: now the empty folder has its name.
        Ok(()) => fs::remove_dir(target).map(|()| false).map_err(step("remove the temporary folder")),
        Err(error) => Ok(error.kind() == io::ErrorKind::PermissionDenied),
    }
}

fn takes_no_files(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Opens what is no regular file, or a file by the link of a descriptor.
///
/// A pipe waits here until somebody reads it.
pub(super) fn open_stream(target: &Path) -> io::Result<File> {
    let metadata = fs::metadata(target).map_err(step("look at the output file"))?;
    // Through the descriptor that text is printed to: opened again, a file would be written from its beginning.
    #[cfg(unix)]
    if let Some(stdout) = stdout_if(&metadata) {
        return Ok(stdout);
    }
    fs::OpenOptions::new().write(true).truncate(metadata.is_file()).open(target).map_err(step("open the output file"))
}

/// Standard output, if that is the file.
#[cfg(unix)]
fn stdout_if(metadata: &Metadata) -> Option<File> {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned().ok()?);
    let found = stdout.metadata().ok()?;
    ((found.dev(), found.ino()) == (metadata.dev(), metadata.ino())).then_some(stdout)
}

fn temporary_for(target: &Path) -> io::Result<NamedTempFile> {
    let (folder, prefix) = (folder_of(target), leftovers::prefix(target));
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).rand_bytes(leftovers::RANDOM).suffix(leftovers::SUFFIX);
    // tempfile's own default is 0600; the mode given here goes to open(2), so the umask applies.
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    builder.tempfile_in(folder).map_err(in_folder(folder))
}

/// A file that is readable by its owner alone, with a name that begins with `name`'s and ends with its suffix.
pub(super) fn new_file(folder: &Path, name: &OsStr) -> io::Result<NamedTempFile> {
    const RANDOM: usize = 12;
    let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let name = Path::new(name);
    let (stem, suffix) = (part(name.file_stem()), part(name.extension()));
    let prefix = format!("{}-", leftovers::cut(&stem));
    let suffix = if suffix.is_empty() || suffix.len() > 20 { String::new() } else { format!(".{suffix}") };
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).rand_bytes(RANDOM).suffix(&suffix);
    builder.tempfile_in(folder).map_err(in_folder(folder))
}

fn in_folder(folder: &Path) -> impl Fn(io::Error) -> io::Error {
    move |e| {
        if e.kind() == io::ErrorKind::NotFound {
            return io::Error::new(e.kind(), format!("there is no folder '{}'", folder.display()));
        }
        // tempfile adds the name that it has made up, which says nothing to a user.
        let text = e.to_string();
        let cause = text.split(" at path \"").next().unwrap_or(&text);
        io::Error::new(e.kind(), format!("cannot create a temporary file in folder '{}': {cause}", folder.display()))
    }
}
