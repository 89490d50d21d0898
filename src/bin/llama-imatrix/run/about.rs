//! `--version` and `--list-devices`.

#[cfg(feature = "llama")]
use std::fmt::Write as _;

use crate::args::Flags;

/// `--list-devices`, as llama.cpp prints it.
#[cfg(feature = "llama")]
pub(crate) fn devices(flags: &Flags) -> anyhow::Result<String> {
    const MIB: usize = 1024 * 1024;
    let backend = super::settings::start_backend(flags, &crate::ui::signals::Signals::default())?;
    let mut text = String::from("Available devices:\n");
    let devices: Vec<_> = backend.devices().into_iter().filter(|device| !device.is_cpu()).collect();
    if devices.is_empty() {
        text += "  (none)\n";
    }
    for device in devices {
        let (free, total) = device.memory();
        let (name, description) = (device.name(), device.description());
        let _ = writeln!(text, "  {name}: {description} ({} MiB, {} MiB free)", total / MIB, free / MIB);
    }
    Ok(text)
}

#[cfg(not(feature = "llama"))]
pub(crate) fn devices(_: &Flags) -> anyhow::Result<String> {
    anyhow::bail!("this program was built without llama.cpp and has no devices")
}

/// `--version`.
pub(crate) fn version() -> String {
    #[cfg(feature = "llama")]
    let with = format!("llama.cpp {}", llama_imatrix::llama::Backend::version());
    #[cfg(not(feature = "llama"))]
    let with = "no llama.cpp";
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("version: {} (with {with})\nbuilt for {os} {arch}\n", env!("CARGO_PKG_VERSION"))
}
