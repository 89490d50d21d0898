//! Sums on one device.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use llama_cpp_sys_2 as sys;

use super::accumulator::DeviceAccumulator;
use super::buffer::DeviceBuffer;
use super::health::Health;
use super::reduce::{self, Layout, Method, Products, Reduced};
use crate::llama::graph_builder::{GraphBuilder, Node};
use crate::llama::graph_runner::{GraphRunner, read_f32, write};
use crate::llama::{Device, TensorRef};

/// Largest root mean square of the relative errors of sums of squares per expert. f32 has 1e-7, TF32 has 2e-6 and more.
const TOLERANCE: f64 = 5e-7;

/// Where an input is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Host,
    Device(Method),
}

/// A device that sums.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) runner: GraphRunner,
    verdicts: BTreeMap<(Layout, i64), Verdict>,
    /// Identity matrices, by size.
    identities: BTreeMap<i64, DeviceBuffer>,
    pub(super) health: Health,
}

impl Place {
    /// Returns `None` if ggml cannot create a backend for the device.
    pub(super) fn new(device: Device) -> Option<Self> {
        let mut runner = GraphRunner::new(device)?;
        if device.is_cpu() {
            runner.set_threads(1);
        }
        let health = Health::default();
        Some(Self { runner, verdicts: BTreeMap::new(), identities: BTreeMap::new(), health })
    }

    /// Returns where the input of `node` is summed, and whether that was decided by this call.
    ///
    /// # Safety
    /// The sources of `node` are computed and stay so during the call.
    pub(super) unsafe fn verdict(&mut self, node: TensorRef<'_>, layout: Layout, channels: i64) -> (Verdict, bool) {
        let key = (layout, channels);
        if let Some(&verdict) = self.verdicts.get(&key) {
            return (verdict, false);
        }
        // SAFETY: our own contract.
        let verdict = unsafe { self.judge(node, layout) };
        self.verdicts.insert(key, verdict);
        (verdict, true)
    }

    /// Returns how rows are added up per expert, if they are routed.
    pub(super) fn method(&self, layout: Layout, channels: i64) -> Method {
        match self.verdicts.get(&(layout, channels)) {
            Some(&Verdict::Device(method)) => method,
            _ => Method::Inner(Products::Plain),
        }
    }

    /// Returns the methods to try, the most exact first.
    ///
    /// On an H100, cuBLAS multiplies in TF32: sums of split inner products had an error of 1.6e-5, those of outer
    /// products of 3e-6. A worker claims to support every operation, and ends at one that it lacks: it gets only the
    /// common method.
    fn methods(&self) -> &'static [Method] {
        const ALL: [Method; 4] = [
            Method::Outer(Products::Plain),
            Method::Outer(Products::Split),
            Method::Inner(Products::Plain),
            Method::Inner(Products::Split),
        ];
        let device = self.runner.device();
        if device.is_cpu() || device.is_remote() { &ALL[2..] } else { &ALL }
    }

    /// # Safety
    /// As for [`verdict`](Self::verdict).
    unsafe fn judge(&mut self, node: TensorRef<'_>, layout: Layout) -> Verdict {
        for &method in self.methods() {
            let Layout::Routed { experts, .. } = layout else {
                // SAFETY: our own contract.
                let supported = self.runner.supports(|builder| unsafe {
                    let reduced = reduce(builder, node, layout, None, method);
                    builder.want(builder.sum(reduced.sums));
                });
                return if supported { Verdict::Device(method) } else { Verdict::Host };
            };
            let Some(identity) = self.identity(experts) else { return Verdict::Host };
            // SAFETY: our own contract.
            let supported = self.runner.supports(|builder| unsafe {
                let reduced = reduce(builder, node, layout, Some(identity), method);
                builder.want(builder.sum(reduced.sums));
                reduced.counts.into_iter().for_each(|counts| builder.want(counts));
            });
            // SAFETY: our own contract.
            if supported && unsafe { self.is_exact(node, layout, identity, method) } {
                return Verdict::Device(method);
            }
        }
        Verdict::Host
    }

    /// Returns true if the sums over all experts equal the sums of the input, computed without products.
    ///
    /// # Safety
    /// As for [`verdict`](Self::verdict).
    unsafe fn is_exact(&mut self, node: TensorRef<'_>, layout: Layout, identity: Node, method: Method) -> bool {
        let Layout::Routed { tokens, slots, row_a_slot, .. } = layout else { return true };
        let (rows, times) = if row_a_slot { (tokens * slots, 1) } else { (tokens, slots) };
        let computed = self.runner.compute(
            // SAFETY: our own contract.
            |builder| unsafe {
                let reduced = reduce(builder, node, layout, Some(identity), method);
                let whole = reduce(builder, node, Layout::Dense { rows, matrices: 1 }, None, method).sums;
                builder.want_to_read(reduced.sums);
                builder.want_to_read(whole);
                (reduced.sums, whole)
            },
            |_| {},
            |&(by_expert, whole)| (read_f32(by_expert), read_f32(whole)),
        );
        let Ok((by_expert, whole)) = computed else { return false };
        let channels = whole.len() / 2;
        let mut error = 0.0;
        for channel in channels..whole.len() {
            let sum: f64 = by_expert.iter().skip(channel).step_by(whole.len()).map(|&x| f64::from(x)).sum();
            let expected = f64::from(whole[channel]) * times as f64;
            error += ((sum - expected) / expected.abs().max(f64::from(f32::MIN_POSITIVE))).powi(2);
        }
        // An input that is not finite says nothing about the device.
        error.is_nan() || error / channels as f64 <= TOLERANCE * TOLERANCE
    }

    /// Adds the input of `node`, whose weight is `weight`, to `accumulator`.
    ///
    /// # Safety
    /// As for [`verdict`](Self::verdict).
    pub(super) unsafe fn add(
        &mut self,
        weight: &str,
        node: TensorRef<'_>,
        layout: Layout,
        method: Method,
        accumulator: &mut DeviceAccumulator,
    ) -> Result<(), String> {
        let identity = match layout {
            Layout::Routed { experts, .. } => Some(self.identity(experts).ok_or("there is no room on it")?),
            Layout::Dense { .. } => None,
        };
        let (page, offset) = self.health.slot(weight, self.runner.device())?;
        self.runner.compute(
            // SAFETY: our own contract.
            |builder| unsafe {
                let reduced = reduce(builder, node, layout, identity, method);
                accumulator.add(builder, &reduced);
                builder.want(builder.add_to(builder.view_1d(page, 1, offset), builder.sum(reduced.sums)));
            },
            |()| {},
            |()| {},
        )?;
        accumulator.added();
        Ok(())
    }

    fn identity(&mut self, n: i64) -> Option<Node> {
        match self.identities.entry(n) {
            Entry::Occupied(memory) => Some(memory.get().get(0)),
            Entry::Vacant(none) => {
                let memory = DeviceBuffer::new(self.runner.device(), &[[n, n]]).ok()?;
                let size = n as usize;
                let mut ones = vec![0.0_f32; size * size];
                ones.iter_mut().step_by(size + 1).for_each(|one| *one = 1.0);
                write(memory.get(0), &ones);
                Some(none.insert(memory).get(0))
            }
        }
    }
}

/// Adds the sums of the input of `node` to a graph. `identity` is needed if rows are routed.
///
/// # Safety
/// The node's sources stay allocated until the builder is computed.
unsafe fn reduce(
    builder: &GraphBuilder<'_>,
    node: TensorRef<'_>,
    layout: Layout,
    identity: Option<Node>,
    method: Method,
) -> Reduced {
    let source = |i| {
        let tensor = node.src(i).expect("a product has sources, and its layout was found").raw();
        // SAFETY: our own contract.
        let leaf = unsafe { builder.leaf(tensor) };
        // SAFETY: the leaf is a live tensor of the builder.
        if unsafe { sys::ggml_is_contiguous(leaf.0.as_ptr()) } { leaf } else { builder.cont(leaf) }
    };
    match (layout, identity) {
        (Layout::Routed { tokens, slots, row_a_slot, .. }, Some(identity)) => {
            let sources = (source(1), source(2), identity);
            reduce::routed(builder, sources, (tokens, slots, row_a_slot), method)
        }
        (Layout::Routed { tokens: rows, .. }, None) => reduce::dense(builder, source(1), rows, 1),
        (Layout::Dense { rows, matrices }, _) => reduce::dense(builder, source(1), rows, matrices),
    }
}
