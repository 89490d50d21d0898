//! Settings of a context that have defaults.

use std::ops::RangeInclusive;

use llama_cpp_sys_2 as sys;

use super::{ControlVector, PoolOptions};
use crate::options::{CacheType, Rope, RopeScaling};

impl CacheType {
    fn to_c(self) -> sys::ggml_type {
        match self {
            Self::F32 => sys::GGML_TYPE_F32,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::Bf16 => sys::GGML_TYPE_BF16,
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
            Self::Q4_0 => sys::GGML_TYPE_Q4_0,
            Self::Q4_1 => sys::GGML_TYPE_Q4_1,
            Self::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
            Self::Q5_0 => sys::GGML_TYPE_Q5_0,
            Self::Q5_1 => sys::GGML_TYPE_Q5_1,
        }
    }
}

/// Settings of a [`Context`](super::Context). The defaults are llama.cpp's.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of llama.cpp's")]
pub struct Tuning {
    /// Type of cached keys.
    pub cache_type_k: CacheType,
    /// Type of cached values.
    pub cache_type_v: CacheType,
    /// Keep the cache in host memory.
    pub no_kv_offload: bool,
    /// Keep operations on host tensors on the CPU.
    pub no_op_offload: bool,
    /// Use a full-size cache for layers with sliding-window attention.
    pub swa_full: bool,
    /// Use one cache for all sequences instead of one of equal size per sequence. Sequences of different lengths then
    /// keep the batch's order and take only the cells that they need.
    pub unified_cache: bool,
    /// Measure no times.
    pub no_perf: bool,
    /// Rotary positions.
    pub rope: Rope,
    /// Pools of threads; `None` leaves threads to ggml.
    pub pools: Option<PoolOptions>,
    /// A control vector, and the layers that it is added to.
    pub control_vector: Option<(ControlVector, RangeInclusive<i32>)>,
}

impl Tuning {
    pub(super) fn set(&self, params: &mut sys::llama_context_params) {
        params.type_k = self.cache_type_k.to_c();
        params.type_v = self.cache_type_v.to_c();
        params.offload_kqv = !self.no_kv_offload;
        params.op_offload = !self.no_op_offload;
        params.swa_full = self.swa_full;
        params.kv_unified = self.unified_cache;
        params.no_perf = self.no_perf;
        if let Some(scaling) = self.rope.scaling {
            params.rope_scaling_type = match scaling {
                RopeScaling::None => sys::LLAMA_ROPE_SCALING_TYPE_NONE,
                RopeScaling::Linear => sys::LLAMA_ROPE_SCALING_TYPE_LINEAR,
                RopeScaling::Yarn => sys::LLAMA_ROPE_SCALING_TYPE_YARN,
            };
        }
        for (to, from) in [
            (&mut params.rope_freq_base, self.rope.freq_base),
            (&mut params.rope_freq_scale, self.rope.freq_scale),
            (&mut params.yarn_ext_factor, self.rope.yarn_ext_factor),
            (&mut params.yarn_attn_factor, self.rope.yarn_attn_factor),
            (&mut params.yarn_beta_fast, self.rope.yarn_beta_fast),
            (&mut params.yarn_beta_slow, self.rope.yarn_beta_slow),
        ] {
            *to = from.unwrap_or(*to);
        }
        params.yarn_orig_ctx = self.rope.yarn_orig_ctx.unwrap_or(params.yarn_orig_ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloading_of_operations_reaches_llama_cpp() {
        for no_op_offload in [false, true] {
            // SAFETY: returns a struct of plain values.
            let mut params = unsafe { sys::llama_context_default_params() };
            Tuning { no_op_offload, ..Tuning::default() }.set(&mut params);
            assert_eq!(params.op_offload, !no_op_offload);
        }
    }
}
