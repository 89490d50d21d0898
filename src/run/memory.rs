//! Memory, as far as the system and the devices tell: what decides whether there is room for another lane.

use crate::llama::{Backend, Device};

/// Bytes of memory that can be had without swapping. `None` where the system does not tell.
pub(super) fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// Bytes of address space in use: memory that was reserved counts, whether or not it has been touched.
pub(super) fn reserved() -> Option<u64> {
    field("/proc/self/status", "VmSize:")
}

/// Devices other than the CPU, with the bytes that are free on each.
pub(super) fn devices() -> Vec<(Device, usize)> {
    let devices = Backend::init().devices().into_iter().filter(|device| !device.is_cpu());
    devices.map(|device| (device, device.memory().0)).collect()
}

/// Whether each has room for twice what was taken of it since. Not where one is another machine's.
pub(super) fn have_room(before: &[(Device, usize)]) -> bool {
    before.iter().all(|(device, before)| {
        let free = device.memory().0;
        !device.is_remote() && before.saturating_sub(free) <= free / 2
    })
}

/// A field in kB of one of Linux's lists.
fn field(list: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(list).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn linux_tells() {
        assert!(super::available().unwrap() > 1 << 20);
        let before = super::reserved().unwrap();
        // Never touched, and far more than other tests give back meanwhile.
        let block = std::hint::black_box(vec![0_u8; 1 << 32]);
        assert!(super::reserved().unwrap() >= before + (1 << 31));
        drop(block);
    }
}
