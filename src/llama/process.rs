//! Signal settings that the process inherited.

/// Returns true if `signal` is ignored, as `SIGHUP` is under `nohup`.
#[cfg(unix)]
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call changes nothing. It writes the current action to the struct.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false; // no such signal
    }
    // SAFETY: the call has succeeded; and zeros, which the struct began with, are a valid value of it too.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_told_from_others() {
        // Rust's runtime ignores SIGPIPE.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGUSR2) && !is_ignored(-1));
    }
}
