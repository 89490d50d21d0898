//! What is left of a run that ends now, for the message at its end.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What is on disk: the state, and else the matrix, with its chunks.
static STATE: Mutex<Option<PathBuf>> = Mutex::new(None);
static MATRIX: Mutex<Option<(PathBuf, i32)>> = Mutex::new(None);

pub(crate) fn state_is_saved(path: &Path) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
}

pub(crate) fn matrix_is_saved(path: &Path, chunks: i32) {
    *MATRIX.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_owned(), chunks));
}

/// What is left of the run if it ends now, to go on with a message.
pub(crate) fn what_is_left() -> String {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let matrix = MATRIX.lock().unwrap_or_else(PoisonError::into_inner);
    match (&*state, &*matrix) {
        (Some(state), _) => {
            format!("; the run up to the last save is in '{}'; hint: --resume continues it", state.display())
        }
        (None, Some((matrix, chunks))) => {
            format!("; the sums of the first {chunks} chunks are in '{}'", matrix.display())
        }
        (None, None) => String::from("; nothing was saved so far"),
    }
}
