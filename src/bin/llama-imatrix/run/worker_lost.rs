//! A worker that is lost in the middle of a run: the process ends then, and the user is told first what is left of the run.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use llama_imatrix::llama::{Backend, LostServer, on_lost_server};

use super::saved::what_is_left;
use crate::ui::signals::{Signals, interrupted};
use crate::ui::{log, progress};

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
