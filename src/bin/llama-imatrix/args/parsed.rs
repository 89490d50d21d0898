//! What comes of parsing.

use super::lowargs::Flags;
use super::table::Special;

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) flags: Flags,
    /// Asked for instead of a run.
    pub(crate) special: Option<Special>,
    /// To be logged once the log is set up.
    pub(crate) warnings: Vec<String>,
}
