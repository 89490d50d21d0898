//! Logits that nobody reads are not computed.
//!
//! llama.cpp has no switch for it: asking for the logits of fewer tokens makes the last layer skip their rows, which
//! are to be collected. So every token asks, and the product with the output matrix is cut down to one row while the
//! graph runs. llama.cpp still copies what is in the place of the logits. A sampler that samples nothing, on a backend,
//! would keep it from that, but has it reserve and clear four times the logits' memory.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

/// Which logits a context computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// Those of every token.
    #[default]
    All,
    /// None. [`Context::logits`](super::Context::logits) is then `None`.
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
