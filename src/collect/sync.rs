//! The lock that lanes share: the standard library's, or for `scripts/turns.sh` that of shuttle, whose scheduler tries
//! many orders of the threads.

#[cfg(all(test, shuttle))]
pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
