//! Flags as options of llama.cpp: of the backend, the model and the context.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::llama::{
    Backend, BackendOptions, BufferType, ControlVector, Device, FlashAttention, Model, ModelOptions, PoolOptions,
    Priority, ThreadOptions, Tuning, unused_vector_features,
};
use llama_imatrix::options::{GpuLayers, Rope, SplitMode};
use llama_imatrix::products;
use llama_imatrix::state::model_files;

use super::worker_lost;
use crate::args::choices::{Choice as _, CpuProducts};
use crate::args::{Flags, Tristate};
use crate::config::{Collect, Threads};
use crate::ui::signals::Signals;
use crate::ui::{log, progress, units};

/// Starts llama.cpp, with all devices that were named. A signal in `signals` ends the wait for a server.
pub(crate) fn start_backend(flags: &Flags, signals: &Signals) -> anyhow::Result<&'static Backend> {
    log::forward_llama_log();
    let backend = Backend::init_with(BackendOptions { fresh_pages: true });
    if let Some(numa) = flags.numa {
        log::debug(format_args!("NUMA strategy: {}", numa.word()));
        backend.init_numa(numa);
    }
    if !flags.rpc.is_empty() {
        let timeout = (flags.rpc_timeout > 0).then(|| Duration::from_secs(flags.rpc_timeout.into()));
        worker_lost::watch_workers(backend, timeout, signals);
    }
    for server in &flags.rpc {
        backend.add_rpc_server(server)?;
        log::debug(format_args!("RPC server '{server}' added"));
    }
    Ok(backend)
}

/// Starts llama.cpp for a run, and sets the priority of the process.
pub(crate) fn start_backend_of_run(task: &Collect, signals: &Signals) -> anyhow::Result<&'static Backend> {
    let backend = start_backend(&task.flags, signals)?;
    warn_of_backend(&task.flags, backend);
    register_products(&task.flags, backend);
    set_priority(task);
    Ok(backend)
}

/// Has products on the CPU computed by our own kernels, where these have ggml's bits. Before a model is loaded.
fn register_products(flags: &Flags, backend: &Backend) {
    if flags.cpu_products == CpuProducts::Ggml {
        return;
    }
    // ggml has a GPU compute large batches with weights in host memory, unless another backend takes them.
    let offloads = |device: &Device| !device.is_cpu() && !device.is_remote();
    let cpu_alone = flags.devices.as_ref().is_some_and(Vec::is_empty);
    if !flags.no_op_offload && !cpu_alone && backend.devices().iter().any(offloads) {
        log::debug(format_args!("products on the CPU are left to ggml: a GPU computes those of large batches"));
        return;
    }
    for choice in products::register() {
        let kernel = choice.kernel().unwrap_or("ggml");
        log::debug(format_args!("{} on the CPU: {kernel}", choice.kind()));
        for inexact in choice.inexact() {
            log::debug(format_args!(
                "{} on the CPU: ggml instead of {inexact}, which does not have ggml's bits on this machine",
                choice.kind()
            ));
        }
    }
}

/// Warns of flags and CPU features without an effect.
fn warn_of_backend(flags: &Flags, backend: &Backend) {
    let unused = unused_vector_features(&backend.system_info());
    if !unused.is_empty() {
        log::warn(format_args!(
            "this CPU has {}, which ggml was built without: build with RUSTFLAGS=\"-C target-cpu=native\" to use them",
            unused.join(", ")
        ));
    }
    if flags.moe_cache_mib > 0 {
        log::warn(format_args!("--moe-cache-mib has no effect: the llama.cpp that is linked caches no experts"));
    }
    // llama.cpp says that it could also where RPC alone is compiled in.
    if backend.devices().iter().any(|device| !device.is_cpu()) {
        if flags.fit == Some(true) {
            log::warn(format_args!("--fit has no effect: --n-gpu-layers says how many layers go to devices"));
        }
        return;
    }
    if flags.fit == Some(true) {
        log::info(format_args!("--fit has no effect without devices other than the CPU"));
    }
    let layers_wanted = matches!(flags.gpu_layers, GpuLayers::Count(1..) | GpuLayers::All);
    for (wanted, flag) in [
        (layers_wanted, "--gpu-layers"),
        (flags.split_mode != SplitMode::Layer, "--split-mode"),
        (!flags.tensor_split.is_empty(), "--tensor-split"),
        (flags.main_gpu != 0, "--main-gpu"),
    ] {
        if wanted {
            log::warn(format_args!(
                "no GPU found: {flag} has no effect\nhint: a build with a feature such as cuda, vulkan or metal finds this \
                 machine's GPUs, --rpc those of another"
            ));
        }
    }
}

pub(crate) fn model_options(task: &Collect, backend: &Backend) -> anyhow::Result<ModelOptions> {
    let flags = &task.flags;
    let devices = match &flags.devices {
        None => None,
        Some(names) => Some(names.iter().map(|name| find_device(backend, name)).collect::<Result<_, _>>()?),
    };
    // ggml has room for 16 devices and their end.
    ensure!(
        flags.tensor_split.len() < backend.max_devices(),
        "--tensor-split: got {} input configs, but system only has {} devices",
        flags.tensor_split.len(),
        backend.max_devices()
    );
    Ok(ModelOptions {
        gpu_layers: flags.gpu_layers,
        devices,
        split_mode: flags.split_mode,
        tensor_split: flags.tensor_split.clone(),
        main_gpu: flags.main_gpu,
        buffer_overrides: buffer_overrides(flags, backend)?,
        load_mode: flags.load_mode,
        lazy_mode: flags.lazy_mode,
        check_tensors: flags.check_tensors,
        no_repack: flags.no_repack,
        no_host: flags.no_host,
        nextn: task.nextn,
        dry: flags.dry_run,
        kv_overrides: flags.override_kv.clone(),
    })
}

fn find_device(backend: &Backend, name: &str) -> anyhow::Result<Device> {
    match backend.devices().into_iter().find(|device| device.name() == name) {
        Some(device) if !device.is_cpu() => Ok(device),
        _ => bail!("invalid device: {name}; hint: --list-devices lists the devices"),
    }
}

fn buffer_overrides(flags: &Flags, backend: &Backend) -> anyhow::Result<Vec<(String, BufferType)>> {
    if flags.override_tensor.is_empty() {
        return Ok(Vec::new());
    }
    let types = backend.devices().into_iter().filter_map(Device::buffer_type);
    let types: BTreeMap<String, BufferType> = types.map(|buffer| (buffer.name(), buffer)).collect();
    let find = |(pattern, name): &(String, String)| {
        let buffer = types.get(name).with_context(|| {
            let names = types.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("--override-tensor: unknown buffer type '{name}'; available buffer types: {names}")
        })?;
        anyhow::Ok((pattern.clone(), *buffer))
    };
    flags.override_tensor.iter().map(find).collect()
}

/// Loads the model, with its adapters.
pub(crate) fn load_model(task: &Collect, options: &ModelOptions) -> anyhow::Result<Model> {
    let size = model_files(&task.model)
        .ok()
        .map(|files| files.iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum());
    let size = size.map_or_else(String::new, |size| format!(" ({})", units::bytes(size)));
    log::info(format_args!("loading '{}'{size}", task.model.display()));
    let bar = progress::Loading::start("loading the model".to_owned());
    let loaded = log::without_repeated_errors(|| {
        Model::load_with_progress(&task.model, options, &mut |fraction| bar.set(fraction))
    });
    progress::finish();
    let mut model = loaded?;
    if options.dry {
        return Ok(model); // without weights there is nothing to adapt
    }
    for (path, scale) in &task.flags.lora {
        log::without_repeated_errors(|| model.add_adapter(path, *scale))?;
        log::debug(format_args!("LoRA adapter '{}' at scale {scale}", path.display()));
    }
    Ok(model)
}

pub(crate) fn flash_attention(flags: &Flags) -> FlashAttention {
    match flags.flash_attn {
        Tristate::Auto => FlashAttention::Auto,
        Tristate::On => FlashAttention::On,
        Tristate::Off => FlashAttention::Off,
    }
}

pub(crate) fn tuning(task: &Collect, model: &Model) -> anyhow::Result<Tuning> {
    let flags = &task.flags;
    Ok(Tuning {
        cache_type_k: flags.cache_type_k,
        cache_type_v: flags.cache_type_v,
        no_kv_offload: flags.no_kv_offload,
        no_op_offload: flags.no_op_offload,
        swa_full: flags.swa_full,
        unified_cache: false,
        no_perf: flags.no_perf,
        rope: rope(flags),
        pools: Some(PoolOptions { single: thread_options(&task.threads), batch: thread_options(&task.threads_batch) }),
        control_vector: control_vector(flags, model)?,
    })
}

/// Sets the priority of the process. The threads, which start later, inherit it.
fn set_priority(task: &Collect) {
    if let Err(error) = priority(task.threads.prio).apply_to_process() {
        log::warn(format_args!("failed to set process priority {}: {error}", task.threads.prio));
    }
}

fn rope(flags: &Flags) -> Rope {
    Rope {
        scaling: flags.rope_scaling,
        freq_base: flags.rope_freq_base,
        freq_scale: flags.rope_freq_scale,
        yarn_ext_factor: flags.yarn_ext_factor,
        yarn_attn_factor: flags.yarn_attn_factor,
        yarn_beta_fast: flags.yarn_beta_fast,
        yarn_beta_slow: flags.yarn_beta_slow,
        yarn_orig_ctx: flags.yarn_orig_ctx.map(|n| u32::try_from(n).unwrap_or(0)),
    }
}

fn thread_options(threads: &Threads) -> ThreadOptions {
    ThreadOptions {
        cpus: threads.cpus.clone(),
        strict: threads.strict,
        priority: priority(threads.prio),
        poll: threads.poll,
    }
}

fn priority(n: i32) -> Priority {
    match n {
        ..0 => Priority::Low,
        0 => Priority::Normal,
        1 => Priority::Medium,
        2 => Priority::High,
        3.. => Priority::Realtime,
    }
}

fn control_vector(
    flags: &Flags,
    model: &Model,
) -> anyhow::Result<Option<(ControlVector, std::ops::RangeInclusive<i32>)>> {
    if flags.control_vectors.is_empty() || flags.dry_run {
        return Ok(None);
    }
    let vector = ControlVector::load(flags.control_vectors.iter().map(|(path, scale)| (path.as_path(), *scale)))?;
    let (start, end) = flags.control_vector_layers;
    let start = if start <= 0 { 1 } else { start };
    let end = if end <= 0 { model.n_layer() } else { end };
    log::debug(format_args!("control vector in layers {start} to {end}"));
    Ok(Some((vector, start..=end)))
}

#[cfg(test)]
mod tests {
    use llama_imatrix::options::LazyMode;

    use super::*;
    use crate::args;
    use crate::config::{Config, Task};

    fn collect(words: &str) -> Box<Collect> {
        let parsed = args::parse(std::iter::once("llama-imatrix").chain(words.split_whitespace()).map(Into::into));
        match Config::new(parsed.unwrap().flags).unwrap().task {
            Task::Collect(task) => task,
            other => panic!("{other:?}"),
        }
    }

    /// Flags whose effect does not show on a machine without devices: they get as far as llama.cpp's options, and
    /// `llama_imatrix::llama` has tests that these reach llama.cpp.
    #[test]
    fn flags_without_an_effect_here_reach_the_options() {
        let backend = Backend::init();
        let options =
            |words: &str| model_options(&collect(&format!("-m m.gguf -p text -o /dev/null {words}")), backend).unwrap();
        let plain = options("");
        assert!(!plain.no_host && matches!(plain.lazy_mode, LazyMode::Auto));
        assert!(options("--no-host").no_host);
        assert!(matches!(options("--lazy-mode on").lazy_mode, LazyMode::On));
        assert!(matches!(options("-lzm off").lazy_mode, LazyMode::Off));
        let task = collect("-m m.gguf -p text -o /dev/null --no-op-offload --poll 7");
        assert!(task.flags.no_op_offload);
        assert_eq!((task.threads.poll, task.threads_batch.poll), (7, 7));
        assert_eq!(collect("-m m.gguf -p text -o /dev/null --poll 7 --poll-batch 1").threads_batch.poll, 1);
    }
}
