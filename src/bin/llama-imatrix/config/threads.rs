//! Number of threads, and how they run.

use crate::args::Cpu;
use crate::ui::log;

/// How threads run; their number is kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Threads {
    /// CPUs by number; empty for all.
    pub(crate) cpus: Vec<bool>,
    pub(crate) strict: bool,
    pub(crate) prio: i32,
    pub(crate) poll: u32,
}

impl Threads {
    /// Takes what was given, else what `others` have.
    pub(super) fn new(given: &Cpu, others: &Cpu) -> Self {
        let cpus = if given.cpus.is_empty() { &others.cpus } else { &given.cpus };
        Self {
            cpus: cpus.clone(),
            strict: given.strict.or(others.strict).unwrap_or(false),
            prio: given.prio.or(others.prio).unwrap_or(0),
            poll: given.poll.or(others.poll).unwrap_or(50),
        }
    }

    pub(super) fn warn_of_few_cpus(&self, n_threads: i32) {
        let n_set = self.cpus.iter().filter(|&&set| set).count();
        if n_set > 0 && (n_set as i64) < i64::from(n_threads) {
            log::warn(format_args!(
                "Not enough set bits in CPU mask ({n_set}) to satisfy requested thread count: {n_threads}"
            ));
        }
    }
}

fn logical_cpus() -> i32 {
    std::thread::available_parallelism().map_or(1, |n| i32::try_from(n.get()).unwrap_or(i32::MAX))
}

/// Returns one thread per physical core: two on one core share its arithmetic units.
pub(crate) fn default_threads() -> i32 {
    i32::try_from(num_cpus::get_physical()).unwrap_or(i32::MAX).clamp(1, logical_cpus())
}

pub(super) fn at_least_one(threads: i32) -> i32 {
    if threads < 1 { logical_cpus() } else { threads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_options_for_batches_default_to_the_others() {
        let cpu = Cpu { prio: Some(2), strict: Some(true), ..Cpu::default() };
        let batch = Cpu { prio: Some(1), ..Cpu::default() };
        let threads = Threads::new(&batch, &cpu);
        assert_eq!(threads, Threads { cpus: Vec::new(), strict: true, prio: 1, poll: 50 });
    }
}
