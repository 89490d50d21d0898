use std::io;

/// A rule that a lens file breaks. The caller adds the file's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A rule of the format that the file breaks.
    #[error("{0}")]
    Rule(String),
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        if e.is_io() { Self::Io(e.into()) } else { Self::Rule(format!("not a lens file: {e}")) }
    }
}
