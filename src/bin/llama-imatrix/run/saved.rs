//! The files that a run has saved so far, for the message if it ends now.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The saved state, and the saved matrix with its chunks.
static STATE: Mutex<Option<PathBuf>> = Mutex::new(None);
static MATRIX: Mutex<Option<(PathBuf, i32)>> = Mutex::new(None);

pub(crate) fn state_is_saved(path: &Path) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
}

pub(crate) fn matrix_is_saved(path: &Path, chunks: i32) {
    *MATRIX.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_owned(), chunks));
}

/// Returns the end of a message: which files hold the run if it ends now.
pub(crate) fn what_is_left() -> String {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let matrix = MATRIX.lock().unwrap_or_else(PoisonError::into_inner);
    match (&*state, &*matrix) {
        (Some(state), Some((matrix, chunks))) => format!(
            "; the run up to the last save is in '{}'; hint: --resume continues it; the matrix of the first {chunks} chunks \
             is in '{}'",
            state.display(),
            matrix.display()
        ),
        (Some(state), None) => {
            format!("; the run up to the last save is in '{}'; hint: --resume continues it", state.display())
        }
        (None, Some((matrix, chunks))) => {
            format!("; the sums of the first {chunks} chunks are in '{}'", matrix.display())
        }
        (None, None) => String::from("; nothing was saved so far"),
    }
}
