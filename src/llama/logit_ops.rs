//! Operations between the product with the output matrix and the logits: a scale, a soft cap, a bias.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::outputs::is_output_matrix;
use super::tensor::{buffer_of, device_of, is_weight};
use super::{Device, TensorInfo};

/// An operation on rows that keeps their shape, with its parameters and its second operand.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowOp {
    pub(super) op: sys::ggml_op,
    pub(super) params: [i32; 16],
    /// A tensor of the model, such as a bias or the weights of a norm.
    pub(super) operand: Option<NonNull<sys::ggml_tensor>>,
}

pub(super) const APART: &str = "the output matrix and its input are not in the memory of one device";

/// The operations after the product with the output matrix, up to the logits.
pub(super) type LogitOps = Vec<RowOp>;

/// Memory that holds the output matrix and all operands after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Host memory, including the CPU's repacked buffers.
    Host,
    /// A device's memory.
    Device(Device),
}

/// How a model computes its logits.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) logit_ops: LogitOps,
    pub(super) place: Place,
    /// The output matrix.
    pub(super) weight: NonNull<sys::ggml_tensor>,
}

/// Finds, in one evaluation, the operations from the output matrix to the logits.
#[derive(Debug, Default)]
pub(super) struct LogitOpsProbe {
    /// Accepts operands in any memory. Otherwise all must be in the memory of one device.
    anywhere: bool,
    last: Option<NonNull<sys::ggml_tensor>>,
    /// The place of the output matrix and its input, if it is the same, and the matrix.
    head: Option<(Option<Place>, NonNull<sys::ggml_tensor>)>,
    logit_ops: LogitOps,
    /// The result once it is known.
    outcome: Option<Result<(), &'static str>>,
}

impl LogitOpsProbe {
    /// Creates a probe that accepts operands in any memory.
    pub(super) fn anywhere() -> Self {
        Self { anywhere: true, ..Self::default() }
    }

    /// Looks at a node.
    ///
    /// # Safety
    /// `node` is a node of a graph that is about to be computed, and `tensor` describes it.
    pub(super) unsafe fn watch(&mut self, node: NonNull<sys::ggml_tensor>, tensor: TensorInfo<'_>) {
        if self.outcome.is_some() {
            return;
        }
        // SAFETY: by contract.
        let raw = unsafe { node.as_ref() };
        let found = match self.last {
            None if !is_output_matrix(tensor) => return,
            // SAFETY: as above.
            None => unsafe { check_head(raw) }.and_then(|(place, weight)| {
                self.head = Some((place, weight));
                if place.is_some() || self.anywhere { Ok(()) } else { Err(APART) }
            }),
            // SAFETY: as above.
            Some(last) => unsafe { logit_op(raw, last, self.place()) }.map(|op| self.logit_ops.push(op)),
        };
        self.last = Some(node);
        if found.is_err() || raw.flags & sys::GGML_TENSOR_FLAG_OUTPUT as i32 != 0 {
            self.outcome = Some(found);
        }
    }

    /// Returns the place where operands must be; `None` if any will do.
    fn place(&self) -> Option<Place> {
        self.head.and_then(|(place, _)| place).filter(|_| !self.anywhere)
    }

    /// Returns the finding, or the reason why llama.cpp must compute the logits.
    pub(super) fn finish(self) -> Result<Finding, &'static str> {
        let (place, weight) = self.head.unwrap_or((None, NonNull::dangling()));
        let logit_ops = self.logit_ops()?;
        Ok(Finding { logit_ops, place: place.ok_or(APART)?, weight })
    }

    /// Returns the operations after the output matrix, or the reason why they are unknown.
    pub(super) fn logit_ops(self) -> Result<LogitOps, &'static str> {
        self.outcome.unwrap_or(Err("no product with an output matrix leads to the logits")).map(|()| self.logit_ops)
    }
}

/// Checks that a graph of our own can compute the product with the output matrix. Returns the place of the matrix and
/// its input, and the matrix.
///
/// # Safety
/// `node` is a product of a graph.
unsafe fn check_head(node: &sys::ggml_tensor) -> Result<(Option<Place>, NonNull<sys::ggml_tensor>), &'static str> {
    // SAFETY: a product has two sources, which live as long as it does.
    let (weight, input) = unsafe { (&*node.src[0], &*node.src[1]) };
    let row = (input.ne[0] as usize) * size_of::<f32>();
    if weight.op != sys::GGML_OP_NONE {
        return Err("the output matrix is itself computed");
    }
    let place = place_of(weight).filter(|&place| place_of(input) == Some(place));
    if input.type_ != sys::GGML_TYPE_F32 || input.nb[0] != size_of::<f32>() || input.nb[1] != row {
        return Err("the output matrix's input has gaps or is not f32");
    }
    if node.ne[2] != 1 || node.ne[3] != 1 || node.type_ != sys::GGML_TYPE_F32 {
        return Err("the logits are not rows of f32");
    }
    Ok((place, NonNull::from(weight)))
}

/// Returns true if the CPU's backend can read the tensor in place.
pub(super) fn is_on_host(tensor: &sys::ggml_tensor) -> bool {
    place_of(tensor) == Some(Place::Host)
}

pub(super) fn place_of(tensor: &sys::ggml_tensor) -> Option<Place> {
    let buffer = NonNull::new(buffer_of(tensor))?.as_ptr();
    // SAFETY: the buffer lives as long as the tensor.
    let (kind, is_host) =
        unsafe { (sys::ggml_backend_buffer_get_type(buffer), sys::ggml_backend_buffer_is_host(buffer)) };
    match device_of(tensor) {
        // A repacked CPU buffer is not plain host memory, but the CPU reads it.
        _ if is_host => Some(Place::Host),
        Some(device) if device.is_cpu() => Some(Place::Host),
        // A buffer that is split over several devices has another type than the device's own.
        Some(device) => (device.buffer_type()?.as_ptr() == kind).then_some(Place::Device(device)),
        None => None,
    }
}

/// Returns the operation of `node`, if it follows `last` and is one that we know. Its operand is then a weight of the
/// model.
///
/// # Safety
/// `node` and its sources are alive.
unsafe fn logit_op(
    node: &sys::ggml_tensor,
    last: NonNull<sys::ggml_tensor>,
    place: Option<Place>,
) -> Result<RowOp, &'static str> {
    const UNKNOWN: &str = "what follows the output matrix is not a scale, a soft cap or a bias";
    // SAFETY: `last` is read only if it is the node's first source, which is alive.
    let continues = node.src[0] == last.as_ptr() && node.ne == unsafe { last.as_ref() }.ne;
    let known = matches!(node.op, sys::GGML_OP_SCALE | sys::GGML_OP_UNARY | sys::GGML_OP_ADD | sys::GGML_OP_MUL);
    if !continues || !known || node.type_ != sys::GGML_TYPE_F32 || node.src[2..].iter().any(|src| !src.is_null()) {
        return Err(UNKNOWN);
    }
    let operand = NonNull::new(node.src[1]);
    // SAFETY: a node's sources live as long as the node.
    let fixed = operand.is_none_or(|operand| unsafe {
        let operand = operand.as_ref();
        let in_place = place.is_none() || place_of(operand) == place;
        is_weight(operand) && operand.ne[1..] == [1, 1, 1] && in_place
    });
    if fixed { Ok(RowOp { op: node.op, params: node.op_params, operand }) } else { Err(UNKNOWN) }
}
