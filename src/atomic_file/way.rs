//! How a file will be written.

use std::fmt;
use std::io;
use std::path::Path;

use super::prepare::{Prepared, prepare};

/// How [`save`](super::save) writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// Through a temporary file that is renamed: the file is whole at every instant.
    Replace,
    /// Over its old bytes, then synced: no file can be renamed to its name. A save that is cut short leaves a part.
    InPlace(Obstacle),
    /// As a stream of bytes: it is a pipe, a device, or a file that a process has open, such as `/dev/stdout`.
    Stream,
}

/// Why no file can be renamed to the name of an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The file is a mount point, as a file that a container was given is.
    MountPoint,
    /// The folder is sticky, and both it and the file are another user's.
    StickyFolder,
    /// The folder takes no new files.
    Folder,
}

impl Way {
    /// How [`save`](super::save) would write here, found out by doing what it will do, up to the rename. The file itself
    /// is not changed, and what was created is removed.
    ///
    /// # Errors
    /// What `save` would report for a folder that is missing or cannot be written to, or for a file that must not be
    /// written.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(match prepare(path)? {
            Prepared::Replace { .. } => Self::Replace, // the temporary file is removed with it
            Prepared::InPlace { obstacle, .. } => Self::InPlace(obstacle),
            Prepared::Stream { .. } => Self::Stream,
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MountPoint => "the file is a mount point",
            Self::StickyFolder => "the file is another user's, in a folder where only its owner may replace it",
            Self::Folder => "its folder takes no new files",
        })
    }
}
