//! The program's user interface while it works: the log, standard output, the progress bar, signals.

pub(crate) mod chain;
mod line;
pub(crate) mod log;
mod pace;
pub(crate) mod print;
pub(crate) mod progress;
pub(crate) mod results;
#[cfg(feature = "llama")]
pub(crate) mod signals;
pub(crate) mod units;
