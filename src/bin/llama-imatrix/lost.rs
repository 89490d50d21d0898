//! A worker that dies in the midst of a run: ggml ends the process then, and what is left of the run is to be told
//! beforehand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use llama_imatrix::llama::on_lost_server;

use crate::{log, progress};

/// What is on disk: the state, and else the matrix, with its chunks.
static STATE: Mutex<Option<PathBuf>> = Mutex::new(None);
static MATRIX: Mutex<Option<(PathBuf, i32)>> = Mutex::new(None);

pub(crate) fn watch_workers() {
    on_lost_server(|what| {
        let _ = std::io::stdout().flush();
        progress::finish();
        log::error(format_args!("{what}{}", what_is_left()));
    });
}

pub(crate) fn state_is_saved(path: &Path) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
}

pub(crate) fn matrix_is_saved(path: &Path, chunks: i32) {
    *MATRIX.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_owned(), chunks));
}

fn what_is_left() -> String {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let matrix = MATRIX.lock().unwrap_or_else(PoisonError::into_inner);
    match (&*state, &*matrix) {
        (Some(state), _) => {
            format!("; the run up to the last save is in '{}', --resume goes on with it", state.display())
        }
        (None, Some((matrix, chunks))) => {
            format!("; the sums of the first {chunks} chunks are in '{}'", matrix.display())
        }
        (None, None) => String::from("; nothing was saved so far"),
    }
}
