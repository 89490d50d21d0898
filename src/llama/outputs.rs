//! Logits that nobody reads are neither computed nor copied.
//!
//! llama.cpp has no switch for it: asking for the logits of fewer tokens makes the last layer skip their rows, which
//! are to be collected. So every token asks, and the product with the output matrix is cut down to one row while the
//! graph runs ([`HeadCut`]), and a sampler that samples nothing stands in for each sequence, since llama.cpp leaves the
//! logits of such sequences on the device ([`SilentSamplers`]).

use std::ffi::c_char;
use std::ptr::NonNull;
use std::sync::OnceLock;

use llama_cpp_sys_2 as sys;

/// Which logits a context computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// Those of every token.
    #[default]
    All,
    /// None, as far as that can be had. [`Context::logits`](super::Context::logits) is then `None`.
    Nothing,
}

/// The product with the output matrix, cut down to one row from when it is announced to when it is computed.
#[derive(Debug, Default)]
pub(super) struct HeadCut {
    cut: Option<Cut>,
}

#[derive(Debug)]
struct Cut {
    node: NonNull<sys::ggml_tensor>,
    rows: i64,
    input: *mut sys::ggml_tensor,
    /// The input's first row. Boxed, since the node points to it.
    _row: Box<sys::ggml_tensor>,
}

impl HeadCut {
    /// Cuts `node` if it is the product with the output matrix. It is then to be asked for.
    ///
    /// # Safety
    /// `node` is a node of a graph, not computed yet, that nobody else uses until [`restore`](Self::restore).
    pub(super) unsafe fn cut(&mut self, node: NonNull<sys::ggml_tensor>, is_head: bool) -> bool {
        // SAFETY: by contract the node is ours for now, and its sources live as long as it does.
        let tensor = unsafe { &mut *node.as_ptr() };
        let input = tensor.src[1];
        // SAFETY: as above.
        let Some(source) = (unsafe { input.as_ref() }) else { return false };
        let plain = source.ne[2] == 1 && source.ne[3] == 1 && tensor.ne[1] == source.ne[1];
        if !is_head || !plain || source.ne[1] <= 1 {
            return false;
        }
        let mut row = Box::new(*source);
        row.ne[1] = 1;
        let rows = std::mem::replace(&mut tensor.ne[1], 1);
        tensor.src[1] = &raw mut *row;
        self.cut = Some(Cut { node, rows, input, _row: row });
        true
    }

    /// Whether `node` is the one that was cut.
    pub(super) fn is_cut(&self, node: NonNull<sys::ggml_tensor>) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.node == node)
    }

    /// Makes the node what it was: the graph may be used again.
    pub(super) fn restore(&mut self) {
        if let Some(cut) = self.cut.take() {
            // SAFETY: cut()'s contract: the node is alive and ours until now.
            let tensor = unsafe { &mut *cut.node.as_ptr() };
            tensor.ne[1] = cut.rows;
            tensor.src[1] = cut.input;
        }
    }
}

/// A chain with a sampler that does nothing, for each sequence of a context.
#[derive(Debug)]
pub(super) struct SilentSamplers {
    chains: Vec<sys::llama_sampler_seq_config>,
}

impl SilentSamplers {
    pub(super) fn new(n_seq: u32) -> Self {
        let chains = (0..).zip(0..n_seq).map(|(seq_id, _)| {
            // SAFETY: the interface is static, so each sampler may point to it; a chain owns what is added to it.
            let sampler = unsafe {
                let chain = sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params());
                sys::llama_sampler_chain_add(chain, sys::llama_sampler_init(interface(), std::ptr::null_mut()));
                chain
            };
            sys::llama_sampler_seq_config { seq_id, sampler }
        });
        Self { chains: chains.collect() }
    }

    /// For the parameters of a context, which keeps the chains (not this array) for as long as it lives.
    pub(super) fn as_mut_slice(&mut self) -> &mut [sys::llama_sampler_seq_config] {
        &mut self.chains
    }
}

impl Drop for SilentSamplers {
    fn drop(&mut self) {
        for chain in &self.chains {
            // SAFETY: ours, freed once; the context that used it is gone, as its owner sees to.
            unsafe { sys::llama_sampler_free(chain.sampler) };
        }
    }
}

struct Interface(sys::llama_sampler_i);

// SAFETY: function pointers, which are never written after they are set.
unsafe impl Send for Interface {}
// SAFETY: as above.
unsafe impl Sync for Interface {}

/// llama.cpp takes the interface as `*mut` and does not write to it.
fn interface() -> *mut sys::llama_sampler_i {
    static INTERFACE: OnceLock<Interface> = OnceLock::new();
    let interface = INTERFACE.get_or_init(|| {
        // SAFETY: a struct of nullable function pointers, all null.
        let mut interface: sys::llama_sampler_i = unsafe { std::mem::zeroed() };
        interface.name = Some(name);
        interface.apply = Some(apply);
        interface.backend_init = Some(backend_init);
        interface.backend_apply = Some(backend_apply);
        Interface(interface)
    });
    (&raw const interface.0).cast_mut()
}

unsafe extern "C" fn name(_: *const sys::llama_sampler) -> *const c_char {
    c"nothing".as_ptr()
}

unsafe extern "C" fn apply(_: *mut sys::llama_sampler, _: *mut sys::llama_token_data_array) {}

unsafe extern "C" fn backend_init(_: *mut sys::llama_sampler, _: sys::ggml_backend_buffer_type_t, _: u32) -> bool {
    true
}

/// Leaves no logits to be copied, and adds nothing to the graph.
unsafe extern "C" fn backend_apply(
    _: *mut sys::llama_sampler,
    _: *mut sys::ggml_context,
    _: *mut sys::ggml_cgraph,
    data: *mut sys::llama_sampler_data,
) {
    // SAFETY: llama.cpp passes a struct of its own, which is ours until we return.
    unsafe { (*data).logits = std::ptr::null_mut() };
}
