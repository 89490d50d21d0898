//! Sums that stay on a device until they are transferred to the host.

use super::buffer::DeviceBuffer;
use super::reduce::Reduced;
use crate::llama::Device;
use crate::llama::graph_builder::{GraphBuilder, Node};
use crate::llama::graph_runner::read_f32;
use crate::sums::{OnDevice, Partial};

/// The sums of one capture, in the layout of [`reduce`](super::reduce).
#[derive(Debug)]
pub(super) struct DeviceAccumulator {
    device: Device,
    channels: i64,
    matrices: i64,
    routed: bool,
    memory: DeviceBuffer,
    /// True if the sums are zero and the memory has other values: the next addition replaces them, which spares a worker a
    /// command that sets them to zero.
    zero: bool,
}

impl DeviceAccumulator {
    pub(super) fn new(device: Device, channels: i64, matrices: i64, routed: bool) -> Result<Self, String> {
        let mut shapes = vec![[2 * channels, matrices]];
        if routed {
            shapes.push([1, matrices]);
        }
        Ok(Self { device, channels, matrices, routed, memory: DeviceBuffer::new(device, &shapes)?, zero: true })
    }

    /// Returns true if the sums are on this device and have this shape.
    pub(super) fn fits(&self, device: Device, channels: i64, matrices: i64, routed: bool) -> bool {
        (self.device, self.channels, self.matrices, self.routed) == (device, channels, matrices, routed)
    }

    /// Returns true if `other` has the same device and shape, and neither is zero.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        !self.zero && !other.zero && other.fits(self.device, self.channels, self.matrices, self.routed)
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn sums(&self) -> Node {
        self.memory.get(0)
    }

    /// Returns the number of rows per expert, if rows are routed.
    pub(super) fn expert_rows(&self) -> Option<Node> {
        self.routed.then(|| self.memory.get(1))
    }

    /// Has a graph add `more`. Call [`added`](Self::added) once it is computed.
    pub(super) fn add(&self, builder: &GraphBuilder<'_>, more: &Reduced) {
        let add = |to, more| builder.want(if self.zero { builder.copy(more, to) } else { builder.add_to(to, more) });
        add(self.sums(), more.sums);
        if let (Some(counts), Some(more)) = (self.expert_rows(), more.counts) {
            add(counts, more);
        }
    }

    pub(super) fn added(&mut self) {
        self.zero = false;
    }
}

impl OnDevice for DeviceAccumulator {
    fn read(&self) -> Partial {
        if self.zero {
            return Partial::default();
        }
        let mut values = self.memory.read().into_iter();
        let both = values.next().unwrap_or_default();
        let channels = self.channels as usize;
        let of = |place: usize| -> Vec<f32> {
            both.chunks_exact(2 * channels)
                .flat_map(|matrix| &matrix[place * channels..][..channels])
                .copied()
                .collect()
        };
        Partial { sum: of(0), sum2: of(1), counts: values.next().unwrap_or_default() }
    }

    fn counts(&self) -> Vec<f32> {
        self.expert_rows().filter(|_| !self.zero).map(read_f32).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.zero = true;
    }
}
