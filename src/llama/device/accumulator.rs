//! Sums that stay on a device until they are transferred to the host.

use super::buffer::DeviceBuffer;
use crate::llama::Device;
use crate::llama::graph_builder::Node;
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
}

impl DeviceAccumulator {
    pub(super) fn new(device: Device, channels: i64, matrices: i64, routed: bool) -> Result<Self, String> {
        let mut shapes = vec![[2 * channels, matrices]];
        if routed {
            shapes.push([1, matrices]);
        }
        Ok(Self { device, channels, matrices, routed, memory: DeviceBuffer::new(device, &shapes)? })
    }

    /// Returns true if the sums are on this device and have this shape.
    pub(super) fn fits(&self, device: Device, channels: i64, matrices: i64, routed: bool) -> bool {
        (self.device, self.channels, self.matrices, self.routed) == (device, channels, matrices, routed)
    }

    /// Returns true if `other` has the same device and shape.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        other.fits(self.device, self.channels, self.matrices, self.routed)
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
}

impl OnDevice for DeviceAccumulator {
    fn read(&self) -> Partial {
        let both = read_f32(self.sums());
        let channels = self.channels as usize;
        let of = |place: usize| -> Vec<f32> {
            both.chunks_exact(2 * channels)
                .flat_map(|matrix| &matrix[place * channels..][..channels])
                .copied()
                .collect()
        };
        Partial { sum: of(0), sum2: of(1), counts: OnDevice::counts(self) }
    }

    fn counts(&self) -> Vec<f32> {
        self.expert_rows().map(read_f32).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.memory.clear();
    }
}
