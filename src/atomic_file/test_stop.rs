//! For tests alone: ends the process inside a save, as a kill there would. Without the feature `test-hooks`, which a program
//! that is installed does not have, it does nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// `LLAMA_IMATRIX_TEST_STOP_SAVE=STAGE:K` aborts the process in its K-th save (from 1): with a part of the bytes in the
/// temporary file (`write`), with all of them (`fsync`), with all of them on the disk (`rename`), or after the save
/// (`end`). Nothing is cleaned up, and no destructor runs.
pub(super) struct TestStop(Option<String>);

impl TestStop {
    pub(super) fn next() -> Self {
        static SAVES: AtomicU64 = AtomicU64::new(0);
        let number = SAVES.fetch_add(1, Ordering::Relaxed) + 1;
        let wanted =
            if cfg!(feature = "test-hooks") { std::env::var("LLAMA_IMATRIX_TEST_STOP_SAVE").ok() } else { None };
        let stage = wanted.and_then(|wanted| {
            let (stage, k) = wanted.split_once(':')?;
            (k.parse() == Ok(number)).then(|| stage.to_owned())
        });
        Self(stage)
    }

    pub(super) fn at(&self, stage: &str) {
        if self.0.as_deref().is_some_and(|wanted| wanted == stage) {
            std::process::abort();
        }
    }
}
