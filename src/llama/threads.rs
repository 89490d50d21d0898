//! Threads: their CPUs, their priority, and ggml's thread pools.

use std::ffi::c_void;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;

/// Priority of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Below normal.
    Low,
    /// The system's default.
    #[default]
    Normal,
    /// Above normal.
    Medium,
    /// Far above normal.
    High,
    /// Real-time.
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

    /// Sets the priority of the whole process.
    ///
    /// # Errors
    /// The operating system's error: a priority above normal requires privileges.
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

/// Options of a thread pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadOptions {
    /// CPUs to run on, by index; empty for all.
    pub cpus: Vec<bool>,
    /// Pin each thread to one of the CPUs.
    pub strict: bool,
    /// Priority of the threads.
    pub priority: Priority,
    /// How long a thread polls for work before it sleeps, 0 to 100. Has no effect with OpenMP.
    pub poll: u32,
}

impl Default for ThreadOptions {
    fn default() -> Self {
        Self { cpus: Vec::new(), strict: false, priority: Priority::Normal, poll: 50 }
    }
}

impl ThreadOptions {
    /// Most CPUs in [`cpus`](Self::cpus).
    pub const MAX_CPUS: usize = 512;

    fn to_c(&self, n_threads: i32) -> sys::ggml_threadpool_params {
        let mut params = std::mem::MaybeUninit::uninit();
        // SAFETY: the call writes every field of the struct.
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

/// Options of a context's two thread pools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolOptions {
    /// For decodes of one token.
    pub single: ThreadOptions,
    /// For decodes of several tokens.
    pub batch: ThreadOptions,
}

/// `GGML_MAX_N_THREADS`: ggml supports no more.
const MAX_THREADS: usize = 512;

/// Returns the nearest number of threads that ggml supports.
pub(super) fn clamp_threads(n_threads: usize) -> usize {
    n_threads.clamp(1, MAX_THREADS)
}

type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);

/// Thread pools, freed on drop. They must outlive the context that they are attached to.
pub(super) struct Pools {
    free: Free,
    single: NonNull<sys::ggml_threadpool>,
    /// `None` if one pool serves both.
    batch: Option<NonNull<sys::ggml_threadpool>>,
}

impl Pools {
    /// Creates the pools. `None` without a CPU backend or without memory: ggml then creates threads when it needs them.
    pub(super) fn new(options: &PoolOptions, n_threads: i32, n_threads_batch: i32) -> Option<Self> {
        let [n_threads, n_threads_batch] =
            [n_threads, n_threads_batch].map(|n| clamp_threads(n.max(1) as usize) as i32);
        let (new, free) = pool_functions()?;
        let mut single = options.single.to_c(n_threads);
        let mut batch = options.batch.to_c(n_threads_batch);
        // SAFETY: both structs are initialized.
        let same = unsafe { sys::ggml_threadpool_params_match(&raw const single, &raw const batch) };
        // The pool for batches runs first; the other waits for its first token.
        single.paused = !same;
        // SAFETY: the parameters are initialized, and ggml copies them.
        let batch = if same { None } else { Some(NonNull::new(unsafe { new(&raw mut batch) })?) };
        // SAFETY: as above.
        let Some(single) = NonNull::new(unsafe { new(&raw mut single) }) else {
            if let Some(batch) = batch {
                // SAFETY: the pool was made above and is attached to no context.
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
        // SAFETY: our own contract. A null pool for batches stands for the pool for single tokens.
        unsafe { sys::llama_attach_threadpool(context, self.single.as_ptr(), batch) };
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        for pool in self.batch.into_iter().chain([self.single]) {
            // SAFETY: the pool is ours and freed once, by the backend that made it; the context that used it is already
            // freed.
            unsafe { (self.free)(pool.as_ptr()) };
        }
    }
}

/// Returns the CPU backend's functions.
fn pool_functions() -> Option<(New, Free)> {
    let cpu = Device::cpu()?;
    let (new, free) = (cpu.function(c"ggml_threadpool_new")?, cpu.function(c"ggml_threadpool_free")?);
    // SAFETY: the functions that ggml's CPU backend registers under these names have these types.
    unsafe {
        Some((std::mem::transmute::<NonNull<c_void>, New>(new), std::mem::transmute::<NonNull<c_void>, Free>(free)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_and_polling_reach_ggml() {
        let options = ThreadOptions { cpus: vec![false, true], strict: true, poll: 7, ..ThreadOptions::default() };
        let params = options.to_c(3);
        assert_eq!((params.n_threads, params.poll, params.strict_cpu), (3, 7, true));
        assert_eq!(params.cpumask[..3], [false, true, false]);
    }
}
