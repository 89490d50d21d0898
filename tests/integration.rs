//! The integration tests, one binary.

mod formats;
