//! A worker that disconnects during a run: the process ends, with a message that names the files saved so far.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use llama_imatrix::llama::{Backend, LostServer, on_lost_server};

use super::saved::what_is_left;
use crate::ui::signals::{Signals, interrupted};
use crate::ui::{log, progress};

/// Watches RPC servers, and ends the run when one disconnects or has been silent for `timeout`, or earlier if a signal has
/// asked for the end.
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
