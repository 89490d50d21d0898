//! A worker that is lost in the middle of a run: the process ends then, and the user is told first what is left of the run.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llama_imatrix::llama::{Backend, LostServer, on_lost_server};

use crate::signals::{Signals, interrupted};
use crate::{log, progress};

/// What is on disk: the state, and else the matrix, with its chunks.
static STATE: Mutex<Option<PathBuf>> = Mutex::new(None);
static MATRIX: Mutex<Option<(PathBuf, i32)>> = Mutex::new(None);

/// Watches RPC servers, and ends the run once one is lost or has been silent for `timeout`; earlier once a signal has asked
/// for the end.
pub(crate) fn watch_workers(backend: &Backend, timeout: Option<Duration>, signals: &Signals) {
    let ending = signals.clone();
    on_lost_server(move |lost| {
        let _ = std::io::stdout().flush();
        progress::finish();
        let hint = match lost {
            LostServer::Silent { .. } if ending.ended_by().is_none() => {
                "; hint: --rpc-timeout N waits longer for a slow server"
            }
            _ => "",
        };
        let why = ending.ended_by().map_or_else(String::new, |signal| format!("{}: ", interrupted(signal)));
        log::error(format_args!("{why}{lost}{}{hint}", what_is_left()));
        ending.ended_by().map_or(1, |signal| 128 + signal)
    });
    if let Some(timeout) = timeout {
        backend.watch_rpc_servers(timeout, Arc::clone(&signals.stop));
    }
}

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
            format!("; the run up to the last save is in '{}', --resume goes on with it", state.display())
        }
        (None, Some((matrix, chunks))) => {
            format!("; the sums of the first {chunks} chunks are in '{}'", matrix.display())
        }
        (None, None) => String::from("; nothing was saved so far"),
    }
}
