//! What a model does to its logits after the product with the output matrix: a scale, a soft cap, a bias.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::TensorRef;
use super::outputs::is_output_matrix;

/// An operation on a row of logits, and what it takes besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct TailOp {
    pub(super) op: sys::ggml_op,
    pub(super) params: [i32; 16],
    /// A tensor of the model, such as a bias.
    pub(super) operand: Option<NonNull<sys::ggml_tensor>>,
}

/// The operations from the product with the output matrix, not included, to the logits.
pub(super) type Tail = Vec<TailOp>;

/// Watches one evaluation for the tail.
#[derive(Debug, Default)]
pub(super) struct TailProbe {
    /// Whatever memory the output matrix and its input are in; else the host's.
    anywhere: bool,
    last: Option<NonNull<sys::ggml_tensor>>,
    tail: Tail,
    /// The result once it is known.
    outcome: Option<Result<(), &'static str>>,
}

impl TailProbe {
    /// For an output in whatever memory.
    pub(super) fn anywhere() -> Self {
        Self { anywhere: true, ..Self::default() }
    }

    /// # Safety
    /// `node` is a node of a graph that is about to be computed.
    pub(super) unsafe fn watch(&mut self, node: NonNull<sys::ggml_tensor>, tensor: TensorRef<'_>) {
        if self.outcome.is_some() {
            return;
        }
        // SAFETY: by contract.
        let raw = unsafe { node.as_ref() };
        let found = match self.last {
            None if !is_output_matrix(tensor) => return,
            // SAFETY: as above.
            None => unsafe { check_head(raw, self.anywhere) },
            // SAFETY: as above.
            Some(last) => unsafe { tail_op(raw, last, self.anywhere) }.map(|op| self.tail.push(op)),
        };
        self.last = Some(node);
        if found.is_err() || raw.flags & sys::GGML_TENSOR_FLAG_OUTPUT as i32 != 0 {
            self.outcome = Some(found);
        }
    }

    /// The tail, or why logits have to be left to llama.cpp.
    pub(super) fn finish(self) -> Result<Tail, &'static str> {
        self.outcome.unwrap_or(Err("no product with an output matrix leads to the logits")).map(|()| self.tail)
    }
}

/// # Safety
/// `node` is a product of a graph.
unsafe fn check_head(node: &sys::ggml_tensor, anywhere: bool) -> Result<(), &'static str> {
    // SAFETY: a product has two sources, which live as long as it does.
    let (weight, input) = unsafe { (&*node.src[0], &*node.src[1]) };
    let row = (input.ne[0] as usize) * size_of::<f32>();
    if weight.op != sys::GGML_OP_NONE {
        return Err("the output matrix is itself computed");
    }
    if !anywhere && (!is_on_host(weight) || !is_on_host(input)) {
        return Err("the output matrix or its input is not in host memory");
    }
    if input.type_ != sys::GGML_TYPE_F32 || input.nb[0] != size_of::<f32>() || input.nb[1] != row {
        return Err("the output matrix's input has gaps or is not f32");
    }
    if node.ne[2] != 1 || node.ne[3] != 1 || node.type_ != sys::GGML_TYPE_F32 {
        return Err("the logits are not rows of f32");
    }
    Ok(())
}

/// Whether the CPU's backend reads it where it lies.
pub(super) fn is_on_host(tensor: &sys::ggml_tensor) -> bool {
    // SAFETY: a view's source lives as long as the view.
    let owner = unsafe { tensor.view_src.as_ref() }.unwrap_or(tensor);
    // SAFETY: the buffer lives as long as the tensor. Weights in a CPU buffer of another layout are no plain host
    // memory, but are the CPU's.
    !owner.buffer.is_null()
        && unsafe {
            let kind = sys::ggml_backend_buffer_get_type(owner.buffer);
            let device = sys::ggml_backend_buft_get_device(kind);
            sys::ggml_backend_buffer_is_host(owner.buffer)
                || (!device.is_null() && sys::ggml_backend_dev_type(device) == sys::GGML_BACKEND_DEVICE_TYPE_CPU)
        }
}

/// # Safety
/// `node` is a node of the graph that `last` is of.
unsafe fn tail_op(
    node: &sys::ggml_tensor,
    last: NonNull<sys::ggml_tensor>,
    anywhere: bool,
) -> Result<TailOp, &'static str> {
    const UNKNOWN: &str = "what follows the output matrix is not a scale, a soft cap or a bias";
    // SAFETY: `last` is alive: it is a source, or is not looked at.
    let continues = node.src[0] == last.as_ptr() && node.ne == unsafe { last.as_ref() }.ne;
    let known = matches!(node.op, sys::GGML_OP_SCALE | sys::GGML_OP_UNARY | sys::GGML_OP_ADD | sys::GGML_OP_MUL);
    if !continues || !known || node.type_ != sys::GGML_TYPE_F32 || node.src[2..].iter().any(|src| !src.is_null()) {
        return Err(UNKNOWN);
    }
    let operand = NonNull::new(node.src[1]);
    // SAFETY: a node's sources live as long as the node.
    let fixed = operand.is_none_or(|operand| unsafe {
        let operand = operand.as_ref();
        operand.op == sys::GGML_OP_NONE && operand.ne[1..] == [1, 1, 1] && (anywhere || is_on_host(operand))
    });
    if fixed { Ok(TailOp { op: node.op, params: node.op_params, operand }) } else { Err(UNKNOWN) }
}
