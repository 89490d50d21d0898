//! Available memory of the system and of devices: checks whether a run fits, and whether another lane does.

use std::path::Path;

use super::Error;
use crate::llama::{Backend, Device};

/// Returns an error if the memory for `lanes` contexts cannot be allocated. `host` has the bytes of host memory that
/// each writes: for the cache and for computation. A system that overcommits memory would otherwise end the process
/// during the run.
///
/// Must be called before this memory is written. Succeeds if the system does not report its memory.
pub(super) fn check(host: Option<[u64; 2]>, lanes: usize) -> Result<(), Error> {
    let (Some(host), Some(available)) = (host, attainable()) else { return Ok(()) };
    let [cache, compute] = host.map(|bytes| bytes.saturating_mul(lanes as u64));
    if cache.saturating_add(compute) <= available {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(Error::Refused(format!(
        "the run needs {:.1} GiB of memory for its {lanes} contexts (cache {:.1} GiB, computing {:.1} GiB), found {:.1} GiB \
         available; hint: a smaller --ctx-size, --batch-size or --ubatch-size, or --lanes 1, needs less",
        gib(cache + compute),
        gib(cache),
        gib(compute),
        gib(available)
    )))
}

/// Returns the bytes of memory that can be allocated, including swap and within the limits of control groups.
fn attainable() -> Option<u64> {
    let swap = field("/proc/meminfo", "SwapFree:").unwrap_or(0);
    unswapped().map(|unswapped| within_groups(unswapped.saturating_add(swap)))
}

/// Returns the bytes of memory that the system has available without swapping.
fn unswapped() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// Returns as much of the system's memory as the limits of control groups leave.
fn within_groups(system: u64) -> u64 {
    left_in_group().map_or(system, |group| group.min(system))
}

/// Returns the bytes that the limits of this process's control groups leave, if there are any. Reclaimable memory does
/// not count as used.
fn left_in_group() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let left = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?.strip_prefix('/')?);
        let (root, files) = match controllers {
            "" => ("/sys/fs/cgroup", ["memory.max", "anon "]),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "total_rss "])
            }
            _ => return None,
        };
        // A limit includes all groups below.
        let groups = Path::new(path).ancestors().map(|group| Path::new(root).join(group));
        groups.filter_map(|group| left_in(&group, files)).min()
    };
    groups.lines().filter_map(left).min()
}

/// Returns the bytes that the limit of a group leaves, if it has one.
fn left_in(group: &Path, [limit, used]: [&str; 2]) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let limit: u64 = read(limit)?.trim().parse().ok()?;
    let used = read("memory.stat")?.lines().find_map(|line| line.strip_prefix(used)?.trim().parse::<u64>().ok())?;
    Some(limit.saturating_sub(used))
}

/// Returns the bytes of memory available without swapping, also within the limits of control groups; `None` if the
/// system does not report them. Pages of files count as available, since they can be dropped.
#[must_use]
pub fn available() -> Option<u64> {
    unswapped().map(within_groups)
}

/// Returns the bytes of address space in use, whether or not they have been written.
pub(super) fn reserved() -> Option<u64> {
    field("/proc/self/status", "VmSize:")
}

/// Returns the devices other than the CPU, each with its free bytes.
pub(super) fn devices() -> Vec<(Device, usize)> {
    let devices = Backend::init().devices().into_iter().filter(|device| !device.is_cpu());
    devices.map(|device| (device, device.memory().0)).collect()
}

/// Returns true if every device has free at least twice the bytes taken from it since `before`. False if one is remote.
pub(super) fn have_room(before: &[(Device, usize)]) -> bool {
    before.iter().all(|(device, before)| {
        let free = device.memory().0;
        !device.is_remote() && before.saturating_sub(free) <= free / 2
    })
}

/// Reads a field in kB of a file in `/proc`, in bytes.
fn field(list: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(list).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_run_that_cannot_fit_is_refused_before_its_first_batch() {
        let available = super::attainable().unwrap();
        super::check(Some([1 << 20, 1 << 20]), 2).unwrap();
        let error = super::check(Some([available / 2, available / 4]), 2).unwrap_err().to_string();
        assert!(error.contains("the run needs") && error.contains("GiB available; hint: "), "{error}");
        super::check(Some([available / 2, available / 4]), 1).unwrap();
        super::check(None, 2).unwrap();
    }

    #[test]
    fn linux_reports_available_and_reserved_memory() {
        assert!(super::available().unwrap() > 1 << 20);
        let before = super::reserved().unwrap();
        // Not written, and far more than other tests free in the meantime.
        let block = std::hint::black_box(vec![0_u8; 1 << 32]);
        assert!(super::reserved().unwrap() >= before + (1 << 31));
        drop(block);
    }
}
