//! Signal settings that the process inherited.

/// Returns true if `signal` is ignored, as `SIGHUP` is under `nohup`.
#[cfg(unix)]
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action it changes nothing, and writes the present one to the struct that it is given.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false; // no such signal
    }
    // SAFETY: the call above has succeeded; and all zeros, which it began with, are a value of this plain C struct too.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn signals_are_as_they_are() {
        // Rust's runtime ignores SIGPIPE.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGUSR2) && !is_ignored(-1));
    }
}
