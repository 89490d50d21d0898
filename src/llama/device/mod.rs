//! Sums on the device that has the activations: small graphs of our own, computed while the scheduler waits.
//!
//! Only sums leave the device. They are f32 and added up in f32 for some batches, then transferred to the host by whoever
//! has them as [`OnDevice`]; a channel's rows are added as a tree, so the error grows with the logarithm of their number. What a device lacks an operation for, or multiplies too coarsely, is left to the host.

mod accumulator;
mod buffer;
mod health;
mod logits;
mod place;
mod reduce;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ptr::NonNull;

use super::graph_runner::read_f32;
use super::log::{Level, say};
use super::tensor::device_of;
use super::{Device, TensorRef};
use crate::sums::OnDevice;

use accumulator::DeviceAccumulator;
use place::{Place, Verdict};
use reduce::Layout;

pub(super) use logits::DeviceScorer;

/// Why a device could not sum.
#[derive(Debug)]
pub(crate) struct DeviceError {
    pub(crate) device: String,
    pub(crate) reason: String,
}

/// What one lane sums with on devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceSums {
    places: BTreeMap<usize, Place>,
}

impl DeviceSums {
    /// Whether the input of `node`, which is computed, is to be summed on its device. `host_too`: also what lies in host
    /// memory, on the CPU.
    pub(crate) fn takes(&mut self, node: TensorRef<'_>, host_too: bool) -> bool {
        let Some(input) = node.src(1) else { return false };
        if input.is_on_host() && !host_too {
            return false;
        }
        let (Some(layout), Some(device)) = (Layout::of(*node), device_for(input)) else { return false };
        let Some(place) = self.place(device) else { return false };
        // SAFETY: the node and its sources are computed and stay so while it is borrowed.
        let (verdict, new) = unsafe { place.verdict(node, layout, input.ne()[0]) };
        if verdict == Verdict::Host && new {
            let weight = node.src(0).map_or("?", |weight| weight.base_name());
            let name = device.name();
            say(Level::Info, &format!("{name} cannot sum inputs like that of {weight}: these are fetched\n"));
        }
        verdict != Verdict::Host
    }

    /// Adds the input of `node`, of `weight`, to `accumulator` on its device, and creates one if there is none. Only after
    /// [`takes`](Self::takes) has said yes.
    pub(crate) fn add(
        &mut self,
        weight: &str,
        node: TensorRef<'_>,
        accumulator: Option<Box<dyn OnDevice>>,
    ) -> Result<Box<dyn OnDevice>, DeviceError> {
        let failed = |device: &str, reason: String| DeviceError { device: device.to_owned(), reason };
        let (Some(input), Some(layout)) = (node.src(1), Layout::of(*node)) else {
            return Err(failed("a device", "an input of another shape than before".to_owned()));
        };
        let Some(device) = device_for(input) else {
            return Err(failed("a device", "the input lies nowhere".to_owned()));
        };
        let name = device.name();
        let failed = |reason| failed(&name, reason);
        let channels = input.ne()[0];
        let (matrices, routed) = (layout.matrices(), matches!(layout, Layout::Routed { .. }));
        let accumulator = match accumulator {
            Some(accumulator) => accumulator,
            None => {
                Box::new(DeviceAccumulator::new(device, channels, matrices, routed).map_err(|r| failed(advise(&r)))?)
            }
        };
        let Some(own) = own_kind(&*accumulator) else {
            return Err(failed("its sums are kept elsewhere".to_owned()));
        };
        if !own.fits(device, channels, matrices, routed) {
            let before = own.device().name();
            return Err(failed(format!("its sums are on {before} or of another shape; run with --sum-on host")));
        }
        let place = self.place(device).ok_or_else(|| failed("it cannot be set up".to_owned()))?;
        let method = place.method(layout, channels);
        // SAFETY: the node and its sources are computed and stay so while it is borrowed.
        unsafe { place.add(weight, node, layout, method, own) }.map_err(|r| failed(advise(&r)))?;
        Ok(accumulator)
    }

    /// A batch begins.
    pub(crate) fn begin_batch(&mut self) {
        for place in self.places.values() {
            place.health.clear();
        }
    }

    /// A weight whose sums of this batch are not all finite. Waits for the devices.
    pub(crate) fn first_bad(&mut self) -> Option<String> {
        self.places.values().find_map(|place| place.health.first_bad())
    }

    /// Whether both hold the same.
    pub(crate) fn same(&mut self, own: &dyn OnDevice, other: &dyn OnDevice) -> bool {
        let both = (own_kind(own), own_kind(other));
        let (Some(own), Some(other)) = both else { return false };
        if !own.is_like(other) {
            return false;
        }
        let pairs = [Some((own.sums(), other.sums())), own.expert_rows().zip(other.expert_rows())];
        let Some(place) = self.place(own.device()) else { return false };
        let difference = place.runner.compute(
            |builder| {
                let square = |(a, b)| builder.sum(builder.sqr(builder.sub(a, b)));
                let sum = pairs.into_iter().flatten().map(square).reduce(|a, b| builder.add(a, b));
                sum.inspect(|&sum| builder.want_to_read(sum))
            },
            |_| {},
            |sum| sum.map(read_f32),
        );
        matches!(difference, Ok(Some(values)) if values == [0.0])
    }

    fn place(&mut self, device: Device) -> Option<&mut Place> {
        match self.places.entry(device.as_ptr() as usize) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(none) => Place::new(device).map(|place| none.insert(place)),
        }
    }
}

/// Returns the sums as the type of this module, if it made them.
fn own_kind(sums: &dyn OnDevice) -> Option<&DeviceAccumulator> {
    (sums as &dyn Any).downcast_ref()
}

/// What to do where there is no room.
fn advise(reason: &str) -> String {
    format!(
        "{reason}; fewer layers on it (--n-gpu-layers), a smaller --ubatch-size, --lanes 1 or --sum-on host need less of \
         its memory"
    )
}

/// The device that sums what lies where the tensor does: the CPU for memory that is no device's.
fn device_for(tensor: TensorRef<'_>) -> Option<Device> {
    NonNull::new(tensor.buffer())?;
    if tensor.is_on_host() { Device::cpu() } else { device_of(tensor.raw()).or_else(Device::cpu) }
}
