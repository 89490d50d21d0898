//! File formats, merging and statistics.

mod golden;
mod hostile;
mod inputs;
