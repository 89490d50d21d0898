//! ggml's team of threads: the one of the OpenMP runtime that both are linked with, so that two teams never compete.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use super::ffi;

struct Job<'a, W> {
    work: &'a W,
    panicked: AtomicBool,
}

/// Runs `work(thread, threads)` on each thread of a team of at most `threads`. Returns false if any of them panicked.
pub(super) fn run<W: Fn(usize, usize) + Sync>(threads: usize, work: W) -> bool {
    let job = Job { work: &work, panicked: AtomicBool::new(false) };
    let threads = c_int::try_from(threads.max(1)).unwrap_or(c_int::MAX);
    // SAFETY: `call::<W>` expects a `Job<W>`, which `job` is. It outlives the call, which returns when all threads have
    // finished.
    unsafe { ffi::imatrix_products_team(threads, Some(call::<W>), (&raw const job).cast_mut().cast()) };
    !job.panicked.into_inner()
}

unsafe extern "C" fn call<W: Fn(usize, usize) + Sync>(data: *mut c_void, thread: c_int, threads: c_int) {
    // SAFETY: run() passes a job of this type and waits; the threads share it, and W is Sync.
    let job = unsafe { &*data.cast::<Job<'_, W>>() };
    if catch_unwind(AssertUnwindSafe(|| (job.work)(thread as usize, threads as usize))).is_err() {
        job.panicked.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn each_thread_of_the_team_works_once() {
        for threads in [1, 2, 3] {
            let sum = AtomicUsize::new(0);
            assert!(run(threads, |thread, of| {
                assert!(thread < of && of <= threads);
                sum.fetch_add(1 + thread * 10, Ordering::Relaxed);
            }));
            assert!(sum.into_inner() >= 1);
        }
    }

    #[test]
    fn a_panic_does_not_cross_into_c() {
        assert!(!run(2, |_, _| panic!("on purpose")));
    }
}
