//! The lock that lanes share: the standard one, and for `scripts/turns.sh` one whose scheduler tries the orders in which
//! threads may come.

#[cfg(all(test, shuttle))]
pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
