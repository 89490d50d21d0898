//! Where symbolic links lead.

use std::io;
use std::path::{Path, PathBuf};

/// Symbolic links followed before giving up, as Linux does (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Where a path leads.
pub(super) enum Destination {
    /// A name in a folder, which may have no file yet.
    Name(PathBuf),
    /// A file that a process has open, such as `/dev/stdout` or the shell's `>(...)`: it may have no name at all.
    Descriptor(PathBuf),
}

/// Where a path leads once its last component is no symbolic link (the target may not exist yet): what a save replaces.
///
/// The link of an open file, such as `/proc/self/fd/1`, is not followed.
///
/// # Errors
/// Links that lead in a circle.
pub fn follow_links(path: &Path) -> io::Result<PathBuf> {
    Ok(match destination(path)? {
        Destination::Name(target) | Destination::Descriptor(target) => target,
    })
}

pub(super) fn destination(path: &Path) -> io::Result<Destination> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        // What is no link ends the search; what else may be wrong shows when the file is used.
        let Ok(next) = std::fs::read_link(&target) else { return Ok(Destination::Name(target)) };
        if is_of_proc(&target) {
            return Ok(Destination::Descriptor(target));
        }
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    Err(io::Error::other(format!("more than {MAX_LINKS} symbolic links lead on from the output file")))
}

/// Whether a link is one of `/proc/PID/fd`: those are the only links to files in `/proc`.
#[cfg(target_os = "linux")]
fn is_of_proc(link: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| metadata.dev());
    let link = device(link.symlink_metadata());
    link.is_some() && link == device(Path::new("/proc").metadata())
}

/// Elsewhere `/dev/fd/N` is no link.
#[cfg(not(target_os = "linux"))]
fn is_of_proc(_: &Path) -> bool {
    false
}
