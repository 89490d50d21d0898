//! Sums on the device that has the activations: small graphs of our own, computed while the scheduler waits.
//!
//! Only sums leave the device. The device adds them up in f32 for some batches; then the owner of the [`OnDevice`]
//! transfers them to the host. The rows of a channel are added as a tree, so the error grows with the logarithm of
//! their number. If a device lacks an operation, or its products are too inexact, the host sums.

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

/// Reason why a device failed to sum.
#[derive(Debug)]
pub(crate) struct DeviceError {
    pub(crate) device: String,
    pub(crate) reason: String,
}

/// The device sums of one lane.
#[derive(Debug, Default)]
pub(crate) struct DeviceSums {
    places: BTreeMap<usize, Place>,
}

impl DeviceSums {
    /// Returns true if the device sums the input of `node`, which is computed. With `host_too`, the CPU counts as the
    /// device of host memory.
    pub(crate) fn takes(&mut self, node: TensorRef<'_>, host_too: bool) -> bool {
        let Some(input) = node.src(1) else { return false };
        if input.is_on_host() && !host_too {
            return false;
        }
        let (Some(layout), Some(device)) = (Layout::of(*node), device_for(input)) else { return false };
        let Some(place) = self.place(device) else { return false };
        // SAFETY: an observer has a `TensorRef` only for a node whose sources are computed, and they stay so during its
        // lifetime.
        let (verdict, new) = unsafe { place.verdict(node, layout, input.ne()[0]) };
        if verdict == Verdict::Host && new {
            let weight = node.src(0).map_or("?", |weight| weight.base_name());
            let name = device.name();
            say(Level::Info, &format!("{name} cannot sum inputs like that of {weight}: these are fetched\n"));
        }
        verdict != Verdict::Host
    }

    /// Adds the input of `node`, whose weight is `weight`, to `accumulator` on its device. Creates an accumulator if
    /// there is none. Call it only if [`takes`](Self::takes) has returned true.
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
        let mut accumulator = match accumulator {
            Some(accumulator) => accumulator,
            None => {
                Box::new(DeviceAccumulator::new(device, channels, matrices, routed).map_err(|r| failed(advise(&r)))?)
            }
        };
        let Some(own) = (&mut *accumulator as &mut dyn Any).downcast_mut::<DeviceAccumulator>() else {
            return Err(failed("its sums are kept elsewhere".to_owned()));
        };
        if !own.fits(device, channels, matrices, routed) {
            let before = own.device().name();
            return Err(failed(format!("its sums are on {before} or of another shape; run with --sum-on host")));
        }
        let place = self.place(device).ok_or_else(|| failed("it cannot be set up".to_owned()))?;
        let method = place.method(layout, channels);
        // SAFETY: as in `takes`.
        unsafe { place.add(weight, node, layout, method, own) }.map_err(|r| failed(advise(&r)))?;
        Ok(accumulator)
    }

    /// Begins a batch.
    pub(crate) fn begin_batch(&mut self) {
        for place in self.places.values() {
            place.health.clear();
        }
    }

    /// Returns a weight whose sums of this batch are not all finite, if there is one. Waits for the devices.
    pub(crate) fn first_bad(&mut self) -> Option<String> {
        self.places.values().find_map(|place| place.health.first_bad())
    }

    /// Returns true if both have the same sums.
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

/// Appends a hint to a reason.
fn advise(reason: &str) -> String {
    format!(
        "{reason}; fewer layers on it (--n-gpu-layers), a smaller --ubatch-size, --lanes 1 or --sum-on host need less of \
         its memory"
    )
}

/// Returns the device that sums a tensor: that of its memory, or the CPU for memory of no device.
fn device_for(tensor: TensorRef<'_>) -> Option<Device> {
    NonNull::new(tensor.buffer())?;
    if tensor.is_on_host() { Device::cpu() } else { device_of(tensor.raw()).or_else(Device::cpu) }
}
