//! `worker`: lends this machine's devices to a run on another machine.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

/// Lends this machine's devices to runs on other machines (`--rpc HOST:PORT` there), one run at a time, until it is stopped.
///
/// Runs ggml's RPC server of the llama.cpp that this program is built with: both sides must use the same version of the
/// protocol. There is no authentication and no encryption.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Address to listen on. Anyone who can reach it can use this machine.
    #[arg(short = 'H', long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on.
    #[arg(short, long, default_value_t = 50052, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// CPU threads, if the CPU is lent [default: half of all]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Devices to lend, by name [default: all but the CPU, or the CPU if there is no other]
    #[arg(short, long, value_delimiter = ',')]
    device: Vec<String>,
    /// Disconnect a client whose machine has not answered for N seconds; 0: never.
    #[arg(long, value_name = "N", default_value_t = 60)]
    client_timeout: u32,
    /// Keep received weights on disk, so that the next run of the same model need not send them.
    #[arg(short, long)]
    cache: bool,
}

#[cfg(not(feature = "llama"))]
pub(crate) fn run(_: &Worker) -> anyhow::Result<()> {
    anyhow::bail!("this program was built without llama.cpp and has no devices to lend")
}

#[cfg(feature = "llama")]
pub(crate) fn run(args: &Worker) -> anyhow::Result<()> {
    use llama_imatrix::llama::{Backend, serve_rpc};

    crate::ui::log::forward_llama_log();
    let devices = devices(args, Backend::init())?;
    let cache = args.cache.then(cache_folder).transpose()?;
    if !is_loopback(&args.host) {
        crate::ui::log::warn(format_args!(
            "'{}' can be reached from other machines, and the protocol has no authentication: whoever connects can use \
             this machine. Keep it to a network that you trust",
            args.host
        ));
    }
    stop_on_signals()?;
    let half = std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1));
    let threads = args.threads.map_or(half, usize::from);
    let client_timeout = std::time::Duration::from_secs(args.client_timeout.into());
    serve_rpc(&format!("{}:{}", args.host, args.port), &devices, threads, cache.as_deref(), client_timeout)?;
    Ok(())
}

#[cfg(feature = "llama")]
fn devices(
    args: &Worker,
    backend: &llama_imatrix::llama::Backend,
) -> anyhow::Result<Vec<llama_imatrix::llama::Device>> {
    use anyhow::Context as _;

    let all = backend.devices();
    if !args.device.is_empty() {
        let find = |name: &String| {
            let names = || all.iter().map(|device| device.name()).collect::<Vec<_>>().join(", ");
            let found = all.iter().find(|device| device.name() == *name);
            found.copied().with_context(|| format!("unknown device '{name}', expected one of {}", names()))
        };
        return args.device.iter().map(find).collect();
    }
    let (cpu, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|device| device.is_cpu());
    Ok(if others.is_empty() { cpu.into_iter().take(1).collect() } else { others })
}

/// Returns the folder where llama.cpp's own server keeps weights.
#[cfg(feature = "llama")]
fn cache_folder() -> anyhow::Result<PathBuf> {
    use anyhow::Context as _;

    let from = |name, below: &str| {
        let folder = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(PathBuf::from(folder).join(below))
    };
    let folder = from("LLAMA_CACHE", "rpc")
        .or_else(|| from("XDG_CACHE_HOME", "llama.cpp/rpc"))
        .or_else(|| from("HOME", ".cache/llama.cpp/rpc"))
        .context("--cache needs a folder: set LLAMA_CACHE, XDG_CACHE_HOME or HOME")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create '{}'", folder.display()))?;
    Ok(folder)
}

#[cfg_attr(not(any(test, feature = "llama")), expect(dead_code, reason = "without llama.cpp there is no worker"))]
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Ends the process on a signal, since ggml's server loop never ends. A run that uses the worker then fails.
#[cfg(feature = "llama")]
fn stop_on_signals() -> anyhow::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    #[cfg(unix)]
    {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                crate::ui::log::info(format_args!("{}", crate::ui::signals::interrupted(signal)));
                #[expect(clippy::exit, reason = "the server does not return")]
                std::process::exit(0);
            }
        });
    }
    #[cfg(not(unix))]
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            0,
            std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_recognized() {
        for (host, loopback) in
            [("127.0.0.1", true), ("127.9.9.9", true), ("localhost", true), ("0.0.0.0", false), ("10.0.0.7", false)]
        {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
