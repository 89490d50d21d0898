//! Signals. The first signal that ends a program lets the run finish its batch and save; the second ends it at once. Each is
//! acknowledged at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::log;

/// Requests that signals have made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// Set when the run must end.
    pub(crate) stop: Arc<AtomicBool>,
    /// Number of the signal that ended the run; 0: none.
    number: Arc<AtomicUsize>,
    /// Set when progress must be shown and the state saved.
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

    /// Takes over the signals that end a program, from where there is something to save. `n_seq` chunks are evaluated side
    /// by side, and none of them can be kept before the last is complete. The second signal ends the program at once,
    /// with a message that `what_is_left` completes.
    #[cfg(unix)]
    pub(crate) fn register_ending(&self, n_seq: usize, what_is_left: fn() -> String) -> std::io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

        // Under nohup the end of the terminal is none of the run's business.
        let ignored = llama_imatrix::llama::is_ignored(SIGHUP);
        let ending = [SIGINT, SIGTERM].into_iter().chain((!ignored).then_some(SIGHUP));
        let mut received = signal_hook::iterator::Signals::new(ending)?;
        let signals = self.clone();
        let wait = move || {
            let mut received = received.forever();
            if let Some(first) = received.next() {
                say(format!(
                    "finishing the current {}, then saving; Ctrl-C again to quit without saving",
                    batch(n_seq)
                ));
                signals.stop_by(first);
            }
            if let Some(second) = received.next() {
                say(format!("interrupted without saving{}", what_is_left()));
                // Without what is run at exit: the run's threads go on.
                signal_hook::low_level::exit(128 + second);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        Ok(())
    }

    #[cfg(not(unix))]
    pub(crate) fn register_ending(&self, _: usize, _: fn() -> String) -> std::io::Result<()> {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: the second signal finds the flag that the first has set.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&self.stop))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&self.number), signal as usize)?;
            signal_hook::flag::register(signal, Arc::clone(&self.stop))?;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn stop_by(&self, signal: i32) {
        self.number.store(signal as usize, Ordering::Relaxed);
        self.stop.store(true, Ordering::Release);
    }

    /// The signal that ended the run, if one did.
    pub(crate) fn ended_by(&self) -> Option<i32> {
        Some(self.number.load(Ordering::Relaxed) as i32).filter(|&signal| signal != 0)
    }

    /// Returns true if a signal has asked for a report since the last call.
    pub(crate) fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }
}

/// Returns the message that a signal ended the program.
pub(crate) fn interrupted(signal: i32) -> String {
    match signal {
        signal_hook::consts::SIGINT => "interrupted".to_owned(),
        signal_hook::consts::SIGTERM => "interrupted by SIGTERM".to_owned(),
        #[cfg(unix)]
        signal_hook::consts::SIGHUP => "interrupted by SIGHUP".to_owned(),
        other => format!("interrupted by signal {other}"),
    }
}

#[cfg(unix)]
fn batch(n_seq: usize) -> String {
    if n_seq > 1 { format!("batch of {n_seq} chunks") } else { "batch".to_owned() }
}

/// Logs a warning, and waits until it is out, but not for long: standard error may be a pipe that nobody reads, and the
/// signal must act all the same.
#[cfg(unix)]
fn say(message: String) {
    let (done, said) = std::sync::mpsc::channel();
    let write = move || {
        log::warn(format_args!("{message}"));
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = said.recv_timeout(std::time::Duration::from_millis(500));
    }
}
