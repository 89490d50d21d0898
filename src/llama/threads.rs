//! Threads: which CPUs they run on, how urgently, and the pools that ggml runs them in.

use std::ffi::c_void;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

/// How urgent threads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Below others.
    Low,
    /// As others.
    #[default]
    Normal,
    /// Above others.
    Medium,
    /// Far above others.
    High,
    /// Before all others.
    Realtime,
}

impl Priority {
    fn to_c(self) -> sys::ggml_sched_priority {
        match self {
            Self::Low => sys::GGML_SCHED_PRIO_LOW,
            Self::Normal => sys::GGML_SCHED_PRIO_NORMAL,
            Self::Medium => sys::GGML_SCHED_PRIO_MEDIUM,
            Self::High => sys::GGML_SCHED_PRIO_HIGH,
            Self::Realtime => sys::GGML_SCHED_PRIO_REALTIME,
        }
    }

    /// Gives the whole process this priority.
    ///
    /// # Errors
    /// The operating system's: more than the normal priority takes privileges.
    pub fn apply_to_process(self) -> std::io::Result<()> {
        #[cfg(unix)]
        {
            let nice = match self {
                Self::Normal => return Ok(()),
                Self::Low => 5,
                Self::Medium => -5,
                Self::High => -10,
                Self::Realtime => -20,
            };
            // SAFETY: takes three numbers; 0 is this process.
            if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        }
        #[cfg(not(unix))]
        match self {
            Self::Normal => Ok(()),
            _ => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

/// How a pool of threads works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadOptions {
    /// The CPUs to run on, by number; empty for all.
    pub cpus: Vec<bool>,
    /// A CPU for each thread, rather than all for all.
    pub strict: bool,
    /// How urgent they are.
    pub priority: Priority,
    /// How long a thread spins for work before it sleeps, 0 to 100. Without effect under OpenMP.
    pub poll: u32,
}

impl Default for ThreadOptions {
    fn default() -> Self {
        Self { cpus: Vec::new(), strict: false, priority: Priority::Normal, poll: 50 }
    }
}

impl ThreadOptions {
    /// CPUs a mask can name.
    pub const MAX_CPUS: usize = 512;

    fn to_c(&self, n_threads: i32) -> sys::ggml_threadpool_params {
        let mut params = std::mem::MaybeUninit::uninit();
        // SAFETY: init writes every field of the struct it is given.
        let mut params: sys::ggml_threadpool_params = unsafe {
            sys::ggml_threadpool_params_init(params.as_mut_ptr(), n_threads);
            params.assume_init()
        };
        for (to, &from) in params.cpumask.iter_mut().zip(&self.cpus) {
            *to = from;
        }
        params.prio = self.priority.to_c();
        params.poll = self.poll;
        params.strict_cpu = self.strict;
        params
    }
}

/// The pools of a context: one for single tokens, one for batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolOptions {
    /// Single tokens.
    pub single: ThreadOptions,
    /// Batches.
    pub batch: ThreadOptions,
}

/// `GGML_MAX_N_THREADS`: ggml has no room for more.
const MAX_THREADS: usize = 512;

/// The nearest number of threads that ggml can run.
pub(super) fn clamp_threads(n_threads: usize) -> usize {
    n_threads.clamp(1, MAX_THREADS)
}

type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);

/// Pools that were made, freed on drop. They must outlive the context they are attached to.
pub(super) struct Pools {
    free: Free,
    single: NonNull<sys::ggml_threadpool>,
    /// `None` where one pool does for both.
    batch: Option<NonNull<sys::ggml_threadpool>>,
}

impl Pools {
    /// `None` where there is no CPU backend, or no memory: ggml then makes threads as it needs them.
    pub(super) fn new(options: &PoolOptions, n_threads: i32, n_threads_batch: i32) -> Option<Self> {
        let [n_threads, n_threads_batch] =
            [n_threads, n_threads_batch].map(|n| clamp_threads(n.max(1) as usize) as i32);
        let (new, free) = pool_functions()?;
        let mut single = options.single.to_c(n_threads);
        let mut batch = options.batch.to_c(n_threads_batch);
        // SAFETY: reads two initialized structs.
        let same = unsafe { sys::ggml_threadpool_params_match(&raw const single, &raw const batch) };
        // The pool for batches runs first; the other waits for its first token.
        single.paused = !same;
        // SAFETY: ggml's constructor, given initialized parameters which it copies.
        let batch = if same { None } else { Some(NonNull::new(unsafe { new(&raw mut batch) })?) };
        // SAFETY: as above.
        let Some(single) = NonNull::new(unsafe { new(&raw mut single) }) else {
            if let Some(batch) = batch {
                // SAFETY: made above, attached to nothing.
                unsafe { free(batch.as_ptr()) };
            }
            return None;
        };
        Some(Self { free, single, batch })
    }

    /// # Safety
    /// `context` is valid, and freed before these pools are.
    pub(super) unsafe fn attach(&self, context: *mut sys::llama_context) {
        let batch = self.batch.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: by contract; a null pool for batches stands for the other one.
        unsafe { sys::llama_attach_threadpool(context, self.single.as_ptr(), batch) };
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        for pool in self.batch.into_iter().chain([self.single]) {
            // SAFETY: the pool is ours and freed once, by the backend that made it; the context that used it is already freed.
            unsafe { (self.free)(pool.as_ptr()) };
        }
    }
}

/// The CPU backend's own functions: where backends are loaded at run time there is nothing to link to.
fn pool_functions() -> Option<(New, Free)> {
    // SAFETY: reads the registry; a null device is not asked.
    let reg = unsafe {
        let cpu = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        if cpu.is_null() {
            return None;
        }
        sys::ggml_backend_dev_backend_reg(cpu)
    };
    // SAFETY: the registry is valid, names are NUL-terminated, and under them it hands out functions of exactly these
    // signatures, or null.
    unsafe {
        let new = sys::ggml_backend_reg_get_proc_address(reg, c"ggml_threadpool_new".as_ptr());
        let free = sys::ggml_backend_reg_get_proc_address(reg, c"ggml_threadpool_free".as_ptr());
        let new = std::mem::transmute::<*mut c_void, Option<New>>(new)?;
        let free = std::mem::transmute::<*mut c_void, Option<Free>>(free)?;
        Some((new, free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_threads_wait_and_where_reaches_ggml() {
        let options = ThreadOptions { cpus: vec![false, true], strict: true, poll: 7, ..ThreadOptions::default() };
        let params = options.to_c(3);
        assert_eq!((params.n_threads, params.poll, params.strict_cpu), (3, 7, true));
        assert_eq!(params.cpumask[..3], [false, true, false]);
    }
}
