//! Reports about an importance matrix.

mod printf;
mod table;

pub use table::{Outcome, Warning, show_statistics};
