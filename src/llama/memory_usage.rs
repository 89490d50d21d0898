//! Memory of a model and a context per device: see `vendor/breakdown`.

#[cfg(breakdown)]
use llama_cpp_sys_2 as sys;

use super::context::Kind;
use super::{Context, ContextOptions, Device, Error, Model, Observer, Outputs};

/// Bytes of a model and a context on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The device; `None` for host memory.
    pub device: Option<Device>,
    /// Weights.
    pub weights: usize,
    /// Those of the weights that are [repacked](super::ModelOptions::no_repack): copied, so no file backs their memory.
    pub repacked: usize,
    /// KV cache or recurrent state.
    pub cache: usize,
    /// Compute buffers, including logits.
    pub compute: usize,
}

#[cfg(breakdown)]
#[allow(dead_code, non_camel_case_types, unreachable_pub, reason = "generated")]
mod shim {
    use llama_cpp_sys_2::{ggml_backend_buffer_type, llama_context};
    include!(concat!(env!("OUT_DIR"), "/breakdown.rs"));
}

impl Model {
    /// Returns the memory that this model and a context of it need, host memory first. With a model that was loaded
    /// [`dry`](super::ModelOptions::dry), nothing is allocated. `None` if this build cannot tell.
    ///
    /// # Errors
    /// [`Error::ContextInit`].
    pub fn memory_needed(&self, options: &ContextOptions) -> Result<Option<Vec<DeviceMemory>>, Error> {
        // With `Scores` a graph of our own computes the logits, after an evaluation of two tokens. llama.cpp allocates
        // the same as with `Nothing`.
        let outputs = if options.outputs == Outputs::Scores { Outputs::Nothing } else { options.outputs };
        let mut options = ContextOptions { outputs, ..options.clone() };
        let mut context = Context::new(self, &options, ())?;
        if !context.has_memory() && options.n_batch < options.n_ctx {
            // Such a model evaluates all tokens in one batch.
            options.n_batch = options.n_ctx;
            drop(context);
            context = Context::new(self, &options, ())?;
        }
        Ok(context.memory())
    }

    /// Returns the memory as [`memory_needed`](Self::memory_needed) does, but of a context only what an evaluation
    /// writes. Logits that are not computed are reserved and never written. Requires a model that was loaded
    /// [`dry`](super::ModelOptions::dry); otherwise returns the memory that is reserved.
    ///
    /// # Errors
    /// [`Error::ContextInit`].
    pub fn memory_written(&self, options: &ContextOptions) -> Result<Option<Vec<DeviceMemory>>, Error> {
        if options.outputs == Outputs::All || !self.is_dry() {
            return self.memory_needed(options);
        }
        let options = ContextOptions { outputs: Outputs::Nothing, ..options.clone() };
        let context = Context::of_kind(self, &options, (), Kind::Measured)?;
        // A model without memory is evaluated in whole batches, whose size `memory_needed` corrects.
        if context.has_memory() { Ok(context.memory()) } else { self.memory_needed(&options) }
    }
}

impl<O: Observer> Context<'_, O> {
    /// Returns the memory that the model and this context use, host memory first. `None` if this build cannot tell.
    #[must_use]
    pub(crate) fn memory(&self) -> Option<Vec<DeviceMemory>> {
        memory_usage(self)
    }
}

#[cfg(not(breakdown))]
fn memory_usage<O: Observer>(_: &Context<'_, O>) -> Option<Vec<DeviceMemory>> {
    None
}

#[cfg(breakdown)]
fn memory_usage<O: Observer>(context: &Context<'_, O>) -> Option<Vec<DeviceMemory>> {
    const EMPTY: shim::imatrix_breakdown_entry =
        shim::imatrix_breakdown_entry { type_: std::ptr::null_mut(), model: 0, context: 0, compute: 0 };
    let mut entries = [EMPTY; 64];
    let mut n = 0;
    // SAFETY: the context is alive, and the call writes at most the given number of entries.
    let status =
        unsafe { shim::imatrix_breakdown_get(context.as_ptr(), entries.as_mut_ptr(), entries.len(), &raw mut n) };
    if status != 0 {
        return None;
    }
    let entries = &mut entries[..n];
    if context.is_dry() {
        count_once(entries);
    }
    let mut all = vec![DeviceMemory { device: None, weights: 0, repacked: 0, cache: 0, compute: 0 }];
    for entry in &*entries {
        // SAFETY: the shim has written this entry: its type belongs to a device, which lives as long as the process.
        let (device, on_host) =
            unsafe { (Device::of_buffer_type(entry.type_), sys::ggml_backend_buft_is_host(entry.type_)) };
        let repacked = !on_host && device.is_some_and(Device::is_cpu);
        let device = device.filter(|device| !on_host && !device.is_cpu());
        let place = all.iter().position(|memory| memory.device == device).unwrap_or_else(|| {
            all.push(DeviceMemory { device, weights: 0, repacked: 0, cache: 0, compute: 0 });
            all.len() - 1
        });
        let memory = &mut all[place];
        memory.weights += entry.model;
        memory.repacked += if repacked { entry.model } else { 0 };
        memory.cache += entry.context;
        memory.compute += entry.compute;
    }
    Some(all)
}

/// Divides the compute buffer in CPU memory by the number of backends that share it: without allocation, llama.cpp counts
/// it once for each.
#[cfg(breakdown)]
fn count_once(entries: &mut [shim::imatrix_breakdown_entry]) {
    let Some(cpu) = Device::cpu().and_then(Device::buffer_type) else { return };
    let cpu = cpu.as_ptr();
    // SAFETY: reads ggml's registry, whose devices live as long as the process.
    let accelerators = unsafe {
        let devices = (0..sys::ggml_backend_dev_count()).map(|i| sys::ggml_backend_dev_get(i));
        let is_accelerator = |&device: &_| {
            sys::ggml_backend_dev_type(device) == sys::GGML_BACKEND_DEVICE_TYPE_ACCEL
                && sys::ggml_backend_dev_buffer_type(device) == cpu
        };
        devices.filter(is_accelerator).count()
    };
    // With a GPU, the CPU's own backend has its buffer in other host memory, from which the GPU copies faster.
    // SAFETY: the shim has written the entries: their types belong to devices, which live as long as the process.
    let elsewhere = entries
        .iter()
        .any(|entry| entry.compute > 0 && entry.type_ != cpu && unsafe { sys::ggml_backend_buft_is_host(entry.type_) });
    let sharing = accelerators + usize::from(!elsewhere);
    for entry in entries.iter_mut().filter(|entry| entry.type_ == cpu) {
        entry.compute /= sharing.max(1);
    }
}
