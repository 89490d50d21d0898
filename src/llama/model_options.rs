//! Options for loading a model, and the arrays that llama.cpp takes for them.

use std::ffi::{CString, c_char};

use llama_cpp_sys_2 as sys;

use super::{BufferType, Device, Error};
use crate::options::{GpuLayers, LazyMode, LoadMode, OverrideValue, SplitMode};

impl GpuLayers {
    /// llama.cpp's encoding: -1 is "auto", any other negative number "all".
    fn to_c(self) -> i32 {
        match self {
            Self::Auto => -1,
            Self::All => -2,
            Self::Count(n) => i32::try_from(n).unwrap_or(i32::MAX),
        }
    }
}

/// Options for loading a model.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "llama.cpp's switches, each independent of the others")]
pub struct ModelOptions {
    /// Layers on devices.
    pub gpu_layers: GpuLayers,
    /// Devices to use; `None` for all, empty for the CPU only.
    pub devices: Option<Vec<Device>>,
    /// Split of the model over the devices.
    pub split_mode: SplitMode,
    /// Proportions of the devices' shares; empty to split by free memory.
    pub tensor_split: Vec<f32>,
    /// Index of the device that holds everything that is not split.
    pub main_gpu: i32,
    /// Memory for tensors whose names match a regular expression. The first match counts.
    pub buffer_overrides: Vec<(String, BufferType)>,
    /// Method of loading weights into memory.
    pub load_mode: LoadMode,
    /// Whether rows of weights are read when they are needed.
    pub lazy_mode: LazyMode,
    /// Check the weights for invalid values while loading.
    pub check_tensors: bool,
    /// Keep the file's layout of weights instead of repacking them for the CPU.
    pub no_repack: bool,
    /// Bypass the host buffer of a device.
    pub no_host: bool,
    /// Load its NextN layers, if it has any.
    pub nextn: bool,
    /// Read no weights and allocate no memory, to find out how much a model needs. Such a model has its vocabulary, but
    /// cannot be evaluated.
    pub dry: bool,
    /// Metadata to replace: key, of up to 127 bytes, and value.
    pub kv_overrides: Vec<(String, OverrideValue)>,
}

/// Arrays that `llama_model_params` points to.
#[derive(Default)]
pub(super) struct Arrays {
    devices: Vec<sys::ggml_backend_dev_t>,
    /// Owns what `buffer_overrides` points to.
    patterns: Vec<CString>,
    buffer_overrides: Vec<sys::llama_model_tensor_buft_override>,
    kv_overrides: Vec<sys::llama_model_kv_override>,
    tensor_split: Vec<f32>,
}

impl Arrays {
    pub(super) fn new(options: &ModelOptions) -> Result<Self, Error> {
        let mut arrays = Self::default();
        if let Some(devices) = &options.devices {
            arrays.devices.extend(devices.iter().map(|device| device.as_ptr()));
            arrays.devices.push(std::ptr::null_mut());
        }
        for (pattern, buffer) in &options.buffer_overrides {
            let pattern = CString::new(pattern.as_str())
                .map_err(|_| Error::Nul { what: "tensor pattern", value: pattern.clone() })?;
            arrays
                .buffer_overrides
                .push(sys::llama_model_tensor_buft_override { pattern: pattern.as_ptr(), buft: buffer.as_ptr() });
            arrays.patterns.push(pattern);
        }
        let end = sys::llama_model_tensor_buft_override { pattern: std::ptr::null(), buft: std::ptr::null_mut() };
        arrays.buffer_overrides.push(end);
        for (key, value) in &options.kv_overrides {
            arrays.kv_overrides.push(override_to_c(key, value)?);
        }
        // A list of overrides ends with an empty key.
        arrays.kv_overrides.push(override_to_c("", &OverrideValue::Int(0))?);
        // SAFETY: returns a constant of the build.
        let max_devices = unsafe { sys::llama_max_devices() };
        if !options.tensor_split.is_empty() {
            arrays.tensor_split.clone_from(&options.tensor_split);
            arrays.tensor_split.resize(max_devices, 0.0);
        }
        Ok(arrays)
    }

    /// llama.cpp's parameters. They point into `self`, which must outlive their use.
    pub(super) fn params(&mut self, options: &ModelOptions) -> sys::llama_model_params {
        // SAFETY: returns a struct of plain values.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = options.gpu_layers.to_c();
        params.main_gpu = options.main_gpu;
        params.check_tensors = options.check_tensors;
        params.use_extra_bufts = !options.no_repack;
        params.no_host = options.no_host;
        params.load_mtp = options.nextn;
        params.split_mode = match options.split_mode {
            SplitMode::None => sys::LLAMA_SPLIT_MODE_NONE,
            SplitMode::Layer => sys::LLAMA_SPLIT_MODE_LAYER,
            SplitMode::Row => sys::LLAMA_SPLIT_MODE_ROW,
            SplitMode::Tensor => sys::LLAMA_SPLIT_MODE_TENSOR,
        };
        params.load_mode = match options.load_mode {
            LoadMode::Auto => sys::LLAMA_LOAD_MODE_AUTO,
            LoadMode::Read => sys::LLAMA_LOAD_MODE_NONE,
            LoadMode::Map => sys::LLAMA_LOAD_MODE_MMAP,
            LoadMode::Lock => sys::LLAMA_LOAD_MODE_MLOCK,
            LoadMode::MapAndLock => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
            LoadMode::Direct => sys::LLAMA_LOAD_MODE_DIRECT_IO,
        };
        params.lazy_mode = match options.lazy_mode {
            LazyMode::Auto => sys::LLAMA_LAZY_MODE_AUTO,
            LazyMode::On => sys::LLAMA_LAZY_MODE_ON,
            LazyMode::Off => sys::LLAMA_LAZY_MODE_OFF,
        };
        if options.dry {
            params.no_alloc = true;
            params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        }
        if !self.devices.is_empty() {
            params.devices = self.devices.as_mut_ptr();
        }
        if self.buffer_overrides.len() > 1 {
            params.tensor_buft_overrides = self.buffer_overrides.as_ptr();
        }
        if self.kv_overrides.len() > 1 {
            params.kv_overrides = self.kv_overrides.as_ptr();
        }
        if !self.tensor_split.is_empty() {
            params.tensor_split = self.tensor_split.as_ptr();
        }
        params
    }
}

fn override_to_c(key: &str, value: &OverrideValue) -> Result<sys::llama_model_kv_override, Error> {
    // All bytes of the union are written first, so that every member is initialized.
    let mut union = sys::llama_model_kv_override__bindgen_ty_1 { val_str: [0; 128] };
    let tag = match value {
        OverrideValue::Int(value) => {
            union.val_i64 = *value;
            sys::LLAMA_KV_OVERRIDE_TYPE_INT
        }
        OverrideValue::Float(value) => {
            union.val_f64 = *value;
            sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT
        }
        OverrideValue::Bool(value) => {
            union.val_bool = *value;
            sys::LLAMA_KV_OVERRIDE_TYPE_BOOL
        }
        OverrideValue::Text(value) => {
            union.val_str = short_text("override value", value)?;
            sys::LLAMA_KV_OVERRIDE_TYPE_STR
        }
    };
    Ok(sys::llama_model_kv_override { tag, key: short_text("override key", key)?, __bindgen_anon_1: union })
}

fn short_text(what: &'static str, text: &str) -> Result<[c_char; 128], Error> {
    let mut chars = [0; 128];
    if text.len() >= chars.len() {
        return Err(Error::TooLong { what, value: text.to_owned(), limit: chars.len() - 1 });
    }
    if text.contains('\0') {
        return Err(Error::Nul { what, value: text.to_owned() });
    }
    for (to, from) in chars.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
    Ok(chars)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options without an effect on a machine without devices.
    #[test]
    fn options_without_an_effect_on_the_cpu_reach_llama_cpp() {
        let plain = ModelOptions::default();
        let mut arrays = Arrays::new(&plain).unwrap();
        let params = arrays.params(&plain);
        assert!(!params.no_host && params.use_extra_bufts && !params.check_tensors && !params.load_mtp);
        assert_eq!(params.lazy_mode, sys::LLAMA_LAZY_MODE_AUTO);

        for (lazy_mode, c) in [(LazyMode::On, sys::LLAMA_LAZY_MODE_ON), (LazyMode::Off, sys::LLAMA_LAZY_MODE_OFF)] {
            let set =
                ModelOptions { no_host: true, no_repack: true, lazy_mode, nextn: true, ..ModelOptions::default() };
            let mut arrays = Arrays::new(&set).unwrap();
            let params = arrays.params(&set);
            assert!(params.no_host && !params.use_extra_bufts && params.load_mtp);
            assert_eq!(params.lazy_mode, c);
        }
    }
}
