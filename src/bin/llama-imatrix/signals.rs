//! Signals: the first that ends a program lets the chunk be finished, the second does not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What signals have asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// The run shall end.
    pub(crate) stop: Arc<AtomicBool>,
    /// The signal that said so.
    number: Arc<AtomicUsize>,
    /// Progress shall be shown and the state saved.
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over SIGUSR1, where there is such a signal, for as long as there is nothing to save: it is to end no program
    /// that still loads its model.
    pub(crate) fn register() -> std::io::Result<Self> {
        let signals = Self::default();
        #[cfg(unix)]
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&signals.report))?;
        Ok(signals)
    }

    /// Takes over those that end a program, from where there is something to save.
    pub(crate) fn register_ending(&self) -> std::io::Result<()> {
        for &signal in ENDING {
            // Under nohup the end of the terminal is none of the run's business.
            #[cfg(unix)]
            if signal == signal_hook::consts::SIGHUP && llama_imatrix::llama::is_ignored(signal) {
                continue;
            }
            // In this order: the second signal finds the flag that the first has set.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&self.stop))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&self.number), signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&self.stop))?;
        }
        Ok(())
    }

    /// The signal that ended the run, if one did.
    pub(crate) fn ended_by(&self) -> Option<i32> {
        Some(self.number.load(Ordering::Relaxed) as i32).filter(|&signal| signal != 0)
    }

    /// Whether a report has been asked for since the last call.
    pub(crate) fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }
}

#[cfg(unix)]
const ENDING: &[i32] = &[signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const ENDING: &[i32] = &[signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
