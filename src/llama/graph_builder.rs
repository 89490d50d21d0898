//! Builds small graphs for ggml.

use std::ffi::{CStr, c_void};
use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;

use super::logit_ops::RowOp;
use super::tensor::buffer_of;

/// Most tensors of a graph. The largest graph, a sum over a million rows, has half as many.
pub(super) const MAX_TENSORS: usize = 256;

/// A tensor of a [`GraphBuilder`], or one that outlives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node(pub(super) NonNull<sys::ggml_tensor>);

impl Node {
    pub(super) fn ne(self) -> [i64; 4] {
        // SAFETY: a node of a builder is used only while the builder lives; other tensors outlive the graph that uses
        // them. Nobody writes a shape once the node exists.
        unsafe { self.0.as_ref() }.ne
    }

    fn nb(self) -> [usize; 4] {
        // SAFETY: as in ne().
        unsafe { self.0.as_ref() }.nb
    }

    /// Returns ggml's name of its operation, such as `MUL_MAT`.
    pub(super) fn op_name(self) -> &'static str {
        // SAFETY: as in ne(); the name of an operation is a constant.
        unsafe { CStr::from_ptr(sys::ggml_op_name(self.0.as_ref().op)) }.to_str().unwrap_or("?")
    }

    fn as_ptr(self) -> *mut sys::ggml_tensor {
        self.0.as_ptr()
    }
}

/// Memory for a builder. It serves one builder at a time.
#[derive(Debug)]
pub(super) struct Arena(Vec<u64>);

impl Arena {
    pub(super) fn new() -> Self {
        // SAFETY: both read constants.
        let bytes =
            unsafe { sys::ggml_graph_overhead_custom(MAX_TENSORS, false) + MAX_TENSORS * sys::ggml_tensor_overhead() };
        Self(vec![0; bytes.div_ceil(size_of::<u64>())])
    }

    /// Returns an empty builder.
    pub(super) fn builder(&mut self) -> Option<GraphBuilder<'_>> {
        // SAFETY: the builder borrows the memory, so no other builder uses it. Nodes of an earlier builder, which were
        // in it, are not used any more: only tensors in other memory are passed to a later builder.
        let ctx = NonNull::new(unsafe {
            sys::ggml_init(sys::ggml_init_params {
                mem_size: self.0.len() * size_of::<u64>(),
                mem_buffer: self.0.as_mut_ptr().cast(),
                no_alloc: true,
            })
        })?;
        // SAFETY: the context is new and has room for a graph of this size.
        let graph = NonNull::new(unsafe { sys::ggml_new_graph_custom(ctx.as_ptr(), MAX_TENSORS, false) });
        let Some(graph) = graph else {
            // SAFETY: the context is ours and used nowhere else.
            unsafe { sys::ggml_free(ctx.as_ptr()) };
            return None;
        };
        Some(GraphBuilder { ctx, graph, arena: std::marker::PhantomData })
    }
}

/// A graph under construction. The caller must pass shapes that fit: ggml aborts the process at others.
pub(super) struct GraphBuilder<'a> {
    ctx: NonNull<sys::ggml_context>,
    pub(super) graph: NonNull<sys::ggml_cgraph>,
    arena: std::marker::PhantomData<&'a mut Arena>,
}

impl Drop for GraphBuilder<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is ours and freed once; its memory is the arena's.
        unsafe { sys::ggml_free(self.ctx.as_ptr()) };
    }
}

/// Defines a method of [`GraphBuilder`] for each function of ggml that makes a tensor from others.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) = $function:ident;)*) => {
        $($(#[$doc])*
        pub(super) fn $name(&self, $($arg: $type),*) -> Node {
            // SAFETY: the context is ours and has room for MAX_TENSORS; the arguments are numbers, and tensors of this
            // builder or ones that outlive it.
            node(unsafe { sys::$function(self.ctx.as_ptr(), $($arg.to_c()),*) })
        })*
    };
}

/// Conversion of an argument to ggml's type.
trait ToC {
    type C;
    fn to_c(self) -> Self::C;
}

impl ToC for Node {
    type C = *mut sys::ggml_tensor;
    fn to_c(self) -> Self::C {
        self.as_ptr()
    }
}

macro_rules! plain {
    ($($type:ty),*) => { $(impl ToC for $type { type C = Self; fn to_c(self) -> Self { self } })* };
}
plain!(i32, i64, u32, usize);

fn node(ptr: *mut sys::ggml_tensor) -> Node {
    // ggml aborts instead of returning null if its memory is full. No graph of ours comes near MAX_TENSORS.
    Node(NonNull::new(ptr).unwrap_or_else(|| panic!("a graph of more than {MAX_TENSORS} tensors")))
}

#[expect(clippy::too_many_arguments, reason = "ggml's own")]
impl GraphBuilder<'_> {
    operations! {
        add(a: Node, b: Node) = ggml_add;
        /// Copies `a` to `b`, which stays where it is.
        copy(a: Node, b: Node) = ggml_cpy;
        /// Adds to `a` in place.
        add_to(a: Node, b: Node) = ggml_add_inplace;
        sub(a: Node, b: Node) = ggml_sub;
        sqr(a: Node) = ggml_sqr;
        exp(a: Node) = ggml_exp;
        /// Sum of all elements.
        sum(a: Node) = ggml_sum;
        /// Sum per row.
        sum_rows(a: Node) = ggml_sum_rows;
        mul_mat(a: Node, b: Node) = ggml_mul_mat;
        /// Sum over rows of the outer products of `a`'s row and `b`'s: `[a's channels, b's channels]`.
        out_prod(a: Node, b: Node) = ggml_out_prod;
        cont(a: Node) = ggml_cont;
        transpose(a: Node) = ggml_transpose;
        permute(a: Node, d0: i32, d1: i32, d2: i32, d3: i32) = ggml_permute;
        concat(a: Node, b: Node, dim: i32) = ggml_concat;
        cast(a: Node, to: u32) = ggml_cast;
        soft_max(a: Node) = ggml_soft_max;
        relu(a: Node) = ggml_relu;
        /// Index of each row's largest element.
        argmax(a: Node) = ggml_argmax;
        /// Rows of each matrix of `a`: `rows` has one row of indices per matrix.
        get_rows(a: Node, rows: Node) = ggml_get_rows;
        reshape_1d(a: Node, n0: i64) = ggml_reshape_1d;
        reshape_2d(a: Node, n0: i64, n1: i64) = ggml_reshape_2d;
        reshape_3d(a: Node, n0: i64, n1: i64, n2: i64) = ggml_reshape_3d;
        view_1d(a: Node, n0: i64, offset: usize) = ggml_view_1d;
        view_3d(a: Node, n0: i64, n1: i64, n2: i64, nb1: usize, nb2: usize, offset: usize) = ggml_view_3d;
    }

    /// Returns `count` rows of every matrix, from row `first` on.
    pub(super) fn rows(&self, a: Node, first: i64, count: i64) -> Node {
        let ([n0, _, n2, _], [_, nb1, nb2, _]) = (a.ne(), a.nb());
        self.view_3d(a, n0, count, n2, nb1, nb2, first as usize * nb1)
    }

    /// Adds a leaf over a tensor of another graph: the same elements without its sources, which RPC would send along.
    ///
    /// # Safety
    /// `tensor` has a buffer and stays allocated until the builder is computed.
    pub(super) unsafe fn leaf(&self, tensor: &sys::ggml_tensor) -> Node {
        let [n0, n1, n2, n3] = tensor.ne;
        // SAFETY: the context has room; the leaf covers the bytes that `tensor` covers, of the same buffer.
        unsafe {
            let leaf = sys::ggml_new_tensor_4d(self.ctx.as_ptr(), tensor.type_, n0, n1, n2, n3);
            let made = node(leaf);
            (*leaf).nb = tensor.nb;
            sys::ggml_backend_tensor_alloc(buffer_of(tensor), leaf, tensor.data);
            made
        }
    }

    /// Adds a leaf over rows of a matrix of another graph.
    ///
    /// # Safety
    /// As for [`leaf`](Self::leaf); `tensor` is a matrix that has these rows.
    pub(super) unsafe fn leaf_of_rows(&self, tensor: &sys::ggml_tensor, rows: &std::ops::Range<usize>) -> Node {
        // SAFETY: the context has room; the leaf covers the bytes of these rows, which `tensor` has by contract, in its
        // buffer.
        unsafe {
            let leaf = sys::ggml_new_tensor_2d(self.ctx.as_ptr(), tensor.type_, tensor.ne[0], rows.len() as i64);
            let made = node(leaf);
            (*leaf).nb[1] = tensor.nb[1];
            sys::ggml_backend_tensor_alloc(
                buffer_of(tensor),
                leaf,
                tensor.data.cast::<u8>().add(rows.start * tensor.nb[1]).cast(),
            );
            made
        }
    }

    /// Adds a tensor of i32 that the host fills.
    pub(super) fn input_i32(&self, n: i64) -> Node {
        // SAFETY: the context has room.
        let made = node(unsafe { sys::ggml_new_tensor_1d(self.ctx.as_ptr(), sys::GGML_TYPE_I32, n) });
        // SAFETY: the tensor is this builder's.
        unsafe { sys::ggml_set_input(made.as_ptr()) };
        made
    }

    /// Adds rows of f32 that the host fills.
    pub(super) fn input_rows(&self, n0: i64, n1: i64) -> Node {
        // SAFETY: the context has room.
        let made = node(unsafe { sys::ggml_new_tensor_2d(self.ctx.as_ptr(), sys::GGML_TYPE_F32, n0, n1) });
        // SAFETY: the tensor is this builder's.
        unsafe { sys::ggml_set_input(made.as_ptr()) };
        made
    }

    /// Adds a tensor of f32 or i32 that the host fills.
    pub(super) fn input(&self, dtype: sys::ggml_type, [n0, n1, n2, n3]: [i64; 4]) -> Node {
        // SAFETY: the context has room.
        let made = node(unsafe { sys::ggml_new_tensor_4d(self.ctx.as_ptr(), dtype, n0, n1, n2, n3) });
        // SAFETY: the tensor is this builder's.
        unsafe { sys::ggml_set_input(made.as_ptr()) };
        made
    }

    /// Adds an operation with the type, shape and parameters that it has in another graph. The sources must have the types
    /// and shapes that they have there.
    pub(super) fn operation(
        &self,
        (op, params): (sys::ggml_op, [i32; 16]),
        dtype: sys::ggml_type,
        [n0, n1, n2, n3]: [i64; 4],
        sources: &[Node],
    ) -> Node {
        // SAFETY: the context has room; the new tensor is written before anything else refers to it. `zip` ends at the
        // last place for a source.
        unsafe {
            let next = sys::ggml_new_tensor_4d(self.ctx.as_ptr(), dtype, n0, n1, n2, n3);
            let made = node(next);
            (*next).op = op;
            (*next).op_params = params;
            let places = &mut (*next).src;
            for (place, source) in places.iter_mut().zip(sources) {
                *place = source.as_ptr();
            }
            made
        }
    }

    /// Adds a view of `a`, with the operation, parameters, shape and steps that it has in another graph. It must lie
    /// within `a`, or within the tensor that `a` is a view of.
    pub(super) fn view(
        &self,
        a: Node,
        (op, params): (sys::ggml_op, [i32; 16]),
        [n0, n1, n2, n3]: [i64; 4],
        nb: [usize; 4],
        offset: usize,
    ) -> Node {
        // SAFETY: the context has room; the new tensor is written before anything else refers to it.
        unsafe {
            let next = sys::ggml_view_4d(self.ctx.as_ptr(), a.as_ptr(), n0, n1, n2, n3, nb[1], nb[2], nb[3], offset);
            let made = node(next);
            (*next).nb = nb;
            (*next).op = op;
            (*next).op_params = params;
            made
        }
    }

    /// Adds a product with a matrix of another graph, with the parameters that it has there, such as its precision.
    pub(super) fn mul_mat_like(&self, a: Node, b: Node, params: [i32; 16]) -> Node {
        let product = self.mul_mat(a, b);
        // SAFETY: a tensor of this builder, not computed yet.
        unsafe { (*product.as_ptr()).op_params = params };
        product
    }

    /// Applies `ops` to the rows of `a`, one after the other.
    pub(super) fn each(&self, a: Node, ops: &[RowOp]) -> Node {
        ops.iter().fold(a, |last, op| self.like(last, op.op, op.params, op.operand.map(Node)))
    }

    /// Adds a scalar node that `function` computes on `n_threads` threads of a CPU backend.
    ///
    /// # Safety
    /// The function may be called with this data, and `a` as the tensor's first source, until the builder is computed.
    pub(super) unsafe fn custom<T>(
        &self,
        a: Node,
        function: unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void),
        n_threads: usize,
        data: &mut T,
    ) -> Node {
        let data = std::ptr::from_mut(data).cast::<c_void>();
        let (mut source, n_threads) = (a.as_ptr(), n_threads as i32);
        let (ctx, f32) = (self.ctx.as_ptr(), sys::GGML_TYPE_F32);
        // SAFETY: the context has room; ggml copies the one source from the array that the pointer is to.
        node(unsafe { sys::ggml_custom_4d(ctx, f32, 1, 1, 1, 1, &raw mut source, 1, Some(function), n_threads, data) })
    }

    /// Adds an operation on `a` that keeps its shape, with the parameters that it has in another graph.
    fn like(&self, a: Node, op: sys::ggml_op, params: [i32; 16], operand: Option<Node>) -> Node {
        // SAFETY: the context has room; the new tensor is written before anything else refers to it.
        unsafe {
            let next = sys::ggml_dup_tensor(self.ctx.as_ptr(), a.as_ptr());
            let made = node(next);
            (*next).op = op;
            (*next).op_params = params;
            (*next).src[0] = a.as_ptr();
            (*next).src[1] = operand.map_or(null_mut(), Node::as_ptr);
            made
        }
    }

    /// Adds `node` and its sources to the graph.
    pub(super) fn want(&self, node: Node) {
        // SAFETY: both are this builder's; a graph has room for all tensors of the context.
        unsafe { sys::ggml_build_forward_expand(self.graph.as_ptr(), node.as_ptr()) };
    }

    /// Has `node` computed and its memory kept until the host has read it.
    pub(super) fn want_to_read(&self, node: Node) {
        // SAFETY: as in want().
        unsafe { sys::ggml_set_output(node.as_ptr()) };
        self.want(node);
    }

    /// Returns all nodes that the graph computes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        // SAFETY: the graph is ours.
        let n = unsafe { sys::ggml_graph_n_nodes(self.graph.as_ptr()) };
        // SAFETY: the graph is ours, and an index below its length has a node.
        (0..n).filter_map(|i| NonNull::new(unsafe { sys::ggml_graph_node(self.graph.as_ptr(), i) }).map(Node))
    }
}
