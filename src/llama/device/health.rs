//! Checks that a batch's sums on a device are finite.

use std::collections::BTreeMap;

use super::buffer::DeviceBuffer;
use crate::llama::Device;
use crate::llama::graph_builder::Node;
use crate::llama::graph_runner::read_f32;

/// The sum of a batch's sums per weight.
#[derive(Debug, Default)]
pub(super) struct Health {
    pages: Vec<DeviceBuffer>,
    slots: BTreeMap<String, usize>,
}

/// Weights per page of [`Health`].
pub(super) const PAGE: usize = 256;

impl Health {
    /// Returns the page that holds the sum of `weight`, and the sum's offset in bytes.
    pub(super) fn slot(&mut self, weight: &str, device: Device) -> Result<(Node, usize), String> {
        let next = self.slots.len();
        let slot = *self.slots.entry(weight.to_owned()).or_insert(next);
        if slot / PAGE >= self.pages.len() {
            let page = DeviceBuffer::new(device, &[[PAGE as i64, 1]])?;
            page.clear();
            self.pages.push(page);
        }
        Ok((self.pages[slot / PAGE].get(0), slot % PAGE * size_of::<f32>()))
    }

    /// Begins a batch: sets all sums to zero.
    pub(super) fn clear(&self) {
        self.pages.iter().for_each(DeviceBuffer::clear);
    }

    /// Returns a weight whose sums of this batch are not all finite, if there is one. Waits for the device.
    pub(super) fn first_bad(&self) -> Option<String> {
        let sums: Vec<f32> = self.pages.iter().flat_map(|page| read_f32(page.get(0))).collect();
        let bad = |(_, slot): &(&String, &usize)| !sums[**slot].is_finite();
        self.slots.iter().find(bad).map(|(weight, _)| weight.clone())
    }
}
