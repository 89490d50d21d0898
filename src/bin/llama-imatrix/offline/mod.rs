//! Commands on files: they load no model and start no backend.

pub(crate) mod check;
pub(crate) mod combine;
pub(crate) mod compare;
mod load;
pub(crate) mod merge;
pub(crate) mod recipe;
pub(crate) mod report;
mod select;
pub(crate) mod show_statistics;
pub(crate) mod stats;
mod tables;
