//! Creates a llama.cpp context from its options.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::callback::{Latch, trampoline};
use super::context::Kind;
use super::log::{with_advice, with_reason};
use super::sampler::NoSampler;
use super::threads::{Pools, clamp_threads};
use super::{ContextOptions, Error, FlashAttention, Model, Observer, Outputs};

/// A context and its samplers and thread pools, which must outlive it.
pub(super) struct Created {
    pub(super) ptr: NonNull<sys::llama_context>,
    pub(super) pools: Option<Pools>,
    /// Samplers that the context uses. The context must be freed first.
    pub(super) samplers: Vec<NoSampler>,
}

pub(super) fn create<O: Observer>(
    model: &Model,
    options: &ContextOptions,
    kind: Kind,
    latch: NonNull<Latch<O>>,
) -> Result<Created, Error> {
    let (ptr, samplers) = create_for_memory(model, options, kind, latch)?;
    // SAFETY: the context was just created, and `model` outlives it.
    if let Err(error) = unsafe { apply(model, options, ptr.as_ptr()) } {
        // SAFETY: ours, and used nowhere else yet.
        unsafe { sys::llama_free(ptr.as_ptr()) };
        return Err(error);
    }
    let pools =
        options.tuning.pools.as_ref().and_then(|pools| Pools::new(pools, options.n_threads, options.n_threads_batch));
    if let Some(pools) = &pools {
        // SAFETY: `Context`, which owns both, frees the context before the pools.
        unsafe { pools.attach(ptr.as_ptr()) };
    }
    Ok(Created { ptr, pools, samplers })
}

/// Applies the adapters and the control vector.
///
/// # Safety
/// `context` is a valid context of `model`.
unsafe fn apply(model: &Model, options: &ContextOptions, context: *mut sys::llama_context) -> Result<(), Error> {
    let (mut adapters, mut scales): (Vec<_>, Vec<_>) =
        model.adapters().iter().filter(|(_, scale)| *scale != 0.0).map(|(ptr, scale)| (ptr.as_ptr(), *scale)).unzip();
    if !adapters.is_empty() {
        let n = adapters.len();
        // SAFETY: both arrays have `n` elements, which are copied; the adapters live as long as the model.
        let (status, reason) = with_reason(|| unsafe {
            sys::llama_set_adapters_lora(context, adapters.as_mut_ptr(), n, scales.as_mut_ptr())
        });
        if status != 0 {
            return Err(Error::Apply { what: "LoRA adapters", reason });
        }
    }
    if let Some((vector, layers)) = &options.tuning.control_vector {
        let (data, n_embd) = (vector.data(), i32::try_from(vector.n_embd()).unwrap_or(i32::MAX));
        // SAFETY: `data` is valid for its length and copied.
        let (status, reason) = with_reason(|| unsafe {
            sys::llama_set_adapter_cvec(context, data.as_ptr(), data.len(), n_embd, *layers.start(), *layers.end())
        });
        if status != 0 {
            return Err(Error::Apply { what: "a control vector", reason });
        }
    }
    Ok(())
}

/// Creates a context from the options. For a model without memory, `n_ubatch` is raised to `n_batch`.
fn create_for_memory<O: Observer>(
    model: &Model,
    options: &ContextOptions,
    kind: Kind,
    latch: NonNull<Latch<O>>,
) -> Result<(NonNull<sys::llama_context>, Vec<NoSampler>), Error> {
    let samplers = match options.outputs {
        Outputs::All => Vec::new(),
        _ if kind == Kind::Measured => Vec::new(),
        Outputs::Scores | Outputs::Nothing => (0..options.n_seq).map_while(|_| NoSampler::new()).collect(),
    };
    let ptr = create_once(model, options, kind, options.n_ubatch, latch, &samplers)?;
    // SAFETY: the context was just created.
    let has_memory = !unsafe { sys::llama_get_memory(ptr.as_ptr()) }.is_null();
    if has_memory || options.n_ubatch >= options.n_batch {
        return Ok((ptr, samplers));
    }
    // SAFETY: ours, and used nowhere else yet.
    unsafe { sys::llama_free(ptr.as_ptr()) };
    // Without memory llama.cpp uses no sampler.
    Ok((create_once(model, options, kind, options.n_batch, latch, &[])?, Vec::new()))
}

fn create_once<O: Observer>(
    model: &Model,
    options: &ContextOptions,
    kind: Kind,
    n_ubatch: u32,
    latch: NonNull<Latch<O>>,
    samplers: &[NoSampler],
) -> Result<NonNull<sys::llama_context>, Error> {
    // SAFETY: returns a struct of plain values.
    let mut params = unsafe { sys::llama_context_default_params() };
    params.n_ctx = options.n_ctx;
    params.n_batch = options.n_batch;
    params.n_ubatch = n_ubatch;
    params.n_seq_max = options.n_seq;
    params.ctx_type = match kind {
        Kind::Trunk | Kind::Measured => sys::LLAMA_CONTEXT_TYPE_DEFAULT,
        Kind::Nextn => sys::LLAMA_CONTEXT_TYPE_MTP,
    };
    params.n_threads = clamp_threads(options.n_threads.max(1) as usize) as i32;
    params.n_threads_batch = clamp_threads(options.n_threads_batch.max(1) as usize) as i32;
    params.flash_attn_type = match options.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    // The defaults are those of llama.cpp's tools, not of its library: they decide how tokens are grouped, and so the
    // order of sums.
    options.tuning.set(&mut params);
    params.cb_eval = Some(trampoline::<O>);
    params.cb_eval_user_data = latch.as_ptr().cast();
    let mut samplers: Vec<_> = (0..)
        .zip(samplers)
        .map(|(seq_id, sampler)| sys::llama_sampler_seq_config { seq_id, sampler: sampler.as_ptr() })
        .collect();
    if !samplers.is_empty() {
        params.samplers = samplers.as_mut_ptr(); // copied before the call returns
        params.n_samplers = samplers.len();
        params.n_outputs_max_per_seq = options.n_batch;
    }
    if kind == Kind::Measured {
        params.n_outputs_max = options.n_seq; // llama.cpp's least
    }
    let failed =
        |reason| Error::ContextInit { n_ctx: options.n_ctx, n_seq: options.n_seq, n_batch: options.n_batch, reason };
    // SAFETY: returns a constant.
    let most = unsafe { sys::llama_max_parallel_sequences() };
    if options.n_seq as usize > most {
        let advice = "a smaller --batch-size or a larger --ctx-size makes fewer";
        return Err(failed(format!("llama.cpp allows {most} sequences; {advice}")));
    }
    // SAFETY: the caller keeps the model, the latch and the samplers alive for as long as the context; `params` points
    // to arrays that outlive the call.
    let (ptr, reason) = with_reason(|| unsafe { sys::llama_init_from_model(model.as_ptr(), params) });
    NonNull::new(ptr).ok_or_else(|| failed(with_advice(reason)))
}
