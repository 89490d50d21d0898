//! The result of parsing.

use super::lowargs::Flags;
use super::table::Special;

/// A parsed command line.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) flags: Flags,
    /// A request other than a run.
    pub(crate) special: Option<Special>,
    /// Warnings to log once the log is set up.
    pub(crate) warnings: Vec<String>,
}
