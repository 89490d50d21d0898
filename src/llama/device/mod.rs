//! Sums on the device that has the activations: small graphs of our own, computed while the scheduler waits.
//!
//! Only sums leave the device. They are f32 and added up in f32 for some batches, then brought home (see
//! [`collect`](crate::collect)); a channel's rows are added as a tree, so the error grows with the logarithm of their
//! number. What a device lacks an operation for, or multiplies too coarsely, is left to the host.

mod logits;
mod reduce;
mod resident;
#[cfg(test)]
mod tests;
mod totals;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::draft::{Draft, Node};
use super::log::{Level, say};
use super::workbench::{Workbench, read_f32, write};
use super::{Device, TensorRef};
use crate::collect::OnDevice;

use reduce::{Layout, Products, Reduced};
use resident::Resident;
use totals::Totals;

pub(super) use logits::DeviceScorer;

/// How far sums of squares by expert may be off, as a root mean square of relative errors: f32 comes to 1e-7, TF32 to
/// 2e-6 and more.
const TOLERANCE: f64 = 5e-7;

/// Why a device could not sum.
#[derive(Debug)]
pub(crate) struct DeviceError {
    pub(crate) device: String,
    pub(crate) reason: String,
}

/// Where an input is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Host,
    Device(Products),
}

/// What one lane sums with on devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceSums {
    places: BTreeMap<usize, Place>,
}

/// One device.
#[derive(Debug)]
struct Place {
    bench: Workbench,
    verdicts: BTreeMap<(Layout, i64), Verdict>,
    /// Identity matrices, by size.
    identities: BTreeMap<i64, Resident>,
    health: Health,
}

/// Whether a batch's sums are numbers: for each weight, the sum of all of them.
#[derive(Debug, Default)]
struct Health {
    pages: Vec<Resident>,
    slots: BTreeMap<String, usize>,
}

/// Weights to a page of [`Health`].
const PAGE: usize = 256;

impl DeviceSums {
    /// Whether the input of `node`, which is computed, is to be summed on its device. `host_too`: also what lies in host
    /// memory, on the CPU.
    pub(crate) fn takes(&mut self, node: TensorRef<'_>, host_too: bool) -> bool {
        let Some(input) = node.src(1) else { return false };
        if input.is_on_host() && !host_too {
            return false;
        }
        let (Some(layout), Some(device)) = (Layout::of(node), device_of(input)) else { return false };
        let key = (layout, input.ne()[0]);
        let Some(place) = self.place(device) else { return false };
        if let Some(verdict) = place.verdicts.get(&key) {
            return *verdict != Verdict::Host;
        }
        // SAFETY: the node and its sources are computed and stay so while it is borrowed.
        let verdict = unsafe { place.judge(node, layout) };
        place.verdicts.insert(key, verdict);
        if verdict == Verdict::Host {
            let weight = node.src(0).map_or("?", TensorRef::base_name);
            let name = device.name();
            say(Level::Info, &format!("{name} cannot sum inputs like that of {weight}: these are fetched\n"));
        }
        verdict != Verdict::Host
    }

    /// Adds the input of `node`, of `weight`, to `totals` on its device, making them if there are none. Only after
    /// [`takes`](Self::takes) has said yes.
    pub(crate) fn add(
        &mut self,
        weight: &str,
        node: TensorRef<'_>,
        totals: Option<Box<dyn OnDevice>>,
    ) -> Result<Box<dyn OnDevice>, DeviceError> {
        let failed = |device: &str, reason: String| DeviceError { device: device.to_owned(), reason };
        let (Some(input), Some(layout)) = (node.src(1), Layout::of(node)) else {
            return Err(failed("a device", "an input of another shape than before".to_owned()));
        };
        let Some(device) = device_of(input) else {
            return Err(failed("a device", "the input lies nowhere".to_owned()));
        };
        let name = device.name();
        let failed = |reason| failed(&name, reason);
        let channels = input.ne()[0];
        let (matrices, routed) = (layout.matrices(), matches!(layout, Layout::Routed { .. }));
        let totals = match totals {
            Some(totals) => totals,
            None => Box::new(Totals::new(device, channels, matrices, routed).map_err(|r| failed(advise(&r)))?),
        };
        let Some(own) = totals.as_any().downcast_ref::<Totals>() else {
            return Err(failed("its sums are kept elsewhere".to_owned()));
        };
        if !own.fits(device, channels, matrices, routed) {
            let before = own.device().name();
            return Err(failed(format!("its sums are on {before} or of another shape; run with --sum-on host")));
        }
        let place = self.place(device).ok_or_else(|| failed("it cannot be set up".to_owned()))?;
        let products = match place.verdicts.get(&(layout, channels)) {
            Some(Verdict::Device(products)) => *products,
            _ => Products::Plain,
        };
        // SAFETY: the node and its sources are computed and stay so while it is borrowed.
        unsafe { place.add(weight, node, layout, products, own) }.map_err(|r| failed(advise(&r)))?;
        Ok(totals)
    }

    /// A batch begins.
    pub(crate) fn begin_batch(&mut self) {
        for place in self.places.values() {
            place.health.pages.iter().for_each(Resident::clear);
        }
    }

    /// A weight whose sums of this batch are not all finite. Waits for the devices.
    pub(crate) fn first_bad(&mut self) -> Option<String> {
        self.places.values().find_map(|place| place.health.first_bad())
    }

    /// Whether both hold the same.
    pub(crate) fn same(&mut self, own: &dyn OnDevice, other: &dyn OnDevice) -> bool {
        let both = (own.as_any().downcast_ref::<Totals>(), other.as_any().downcast_ref::<Totals>());
        let (Some(own), Some(other)) = both else { return false };
        if !own.is_like(other) {
            return false;
        }
        let pairs = [Some((own.sums(), other.sums())), own.expert_rows().zip(other.expert_rows())];
        let Some(place) = self.place(own.device()) else { return false };
        let difference = place.bench.compute(
            |draft| {
                let square = |(a, b)| draft.sum(draft.sqr(draft.sub(a, b)));
                let sum = pairs.into_iter().flatten().map(square).reduce(|a, b| draft.add(a, b));
                sum.inspect(|&sum| draft.want_to_read(sum))
            },
            |_| {},
            |sum| sum.map(read_f32),
        );
        matches!(difference, Ok(Some(values)) if values == [0.0])
    }

    fn place(&mut self, device: Device) -> Option<&mut Place> {
        match self.places.entry(device.as_ptr() as usize) {
            Entry::Occupied(place) => Some(place.into_mut()),
            Entry::Vacant(none) => {
                let bench = Workbench::new(device)?;
                if device.is_cpu() {
                    bench.set_threads(1);
                }
                let health = Health::default();
                Some(none.insert(Place { bench, verdicts: BTreeMap::new(), identities: BTreeMap::new(), health }))
            }
        }
    }
}

/// What to do where there is no room.
fn advise(reason: &str) -> String {
    format!(
        "{reason}; fewer layers on it (--n-gpu-layers), a smaller --ubatch-size, --lanes 1 or --sum-on host need less of \
         its memory"
    )
}

/// The device whose memory the tensor lies in: the CPU for the host's.
fn device_of(tensor: TensorRef<'_>) -> Option<Device> {
    let buffer = NonNull::new(tensor.buffer())?;
    // SAFETY: the buffer lives as long as the tensor; a buffer type without a device gives null.
    let device = unsafe { sys::ggml_backend_buft_get_device(sys::ggml_backend_buffer_get_type(buffer.as_ptr())) };
    if tensor.is_on_host() { Device::cpu() } else { Device::new(device).or_else(Device::cpu) }
}

impl Place {
    /// # Safety
    /// `node` and its sources are computed and stay so for the call.
    unsafe fn judge(&mut self, node: TensorRef<'_>, layout: Layout) -> Verdict {
        for products in [Products::Plain, Products::Split] {
            let Layout::Routed { experts, .. } = layout else {
                // SAFETY: our own contract.
                let supported = self.bench.supports(|draft| unsafe {
                    let reduced = reduce(draft, node, layout, None, products);
                    draft.want(draft.sum(reduced.sums));
                });
                return if supported { Verdict::Device(products) } else { Verdict::Host };
            };
            let Some(identity) = self.identity(experts) else { return Verdict::Host };
            // SAFETY: our own contract.
            let supported = self.bench.supports(|draft| unsafe {
                let reduced = reduce(draft, node, layout, Some(identity), products);
                draft.want(draft.sum(reduced.sums));
                reduced.counts.into_iter().for_each(|counts| draft.want(counts));
            });
            // SAFETY: our own contract.
            if supported && unsafe { self.is_exact(node, layout, identity, products) } {
                return Verdict::Device(products);
            }
        }
        Verdict::Host
    }

    /// Whether what went to the experts adds up to what came in, summed without products.
    ///
    /// # Safety
    /// As for [`judge`](Self::judge).
    unsafe fn is_exact(&mut self, node: TensorRef<'_>, layout: Layout, identity: Node, products: Products) -> bool {
        let Layout::Routed { tokens, slots, row_a_slot, .. } = layout else { return true };
        let (rows, times) = if row_a_slot { (tokens * slots, 1) } else { (tokens, slots) };
        let computed = self.bench.compute(
            // SAFETY: our own contract.
            |draft| unsafe {
                let reduced = reduce(draft, node, layout, Some(identity), products);
                let whole = reduce(draft, node, Layout::Dense { rows, matrices: 1 }, None, products).sums;
                draft.want_to_read(reduced.sums);
                draft.want_to_read(whole);
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
        // Input that is not finite says nothing about the device.
        error.is_nan() || error / channels as f64 <= TOLERANCE * TOLERANCE
    }

    /// # Safety
    /// As for [`judge`](Self::judge).
    unsafe fn add(
        &mut self,
        weight: &str,
        node: TensorRef<'_>,
        layout: Layout,
        products: Products,
        totals: &Totals,
    ) -> Result<(), String> {
        let identity = match layout {
            Layout::Routed { experts, .. } => Some(self.identity(experts).ok_or("there is no room on it")?),
            Layout::Dense { .. } => None,
        };
        let (page, offset) = self.health.slot(weight, self.bench.device())?;
        self.bench.compute(
            // SAFETY: our own contract.
            |draft| unsafe {
                let reduced = reduce(draft, node, layout, identity, products);
                draft.want(draft.add_to(totals.sums(), reduced.sums));
                if let (Some(counts), Some(more)) = (totals.expert_rows(), reduced.counts) {
                    draft.want(draft.add_to(counts, more));
                }
                draft.want(draft.add_to(draft.view_1d(page, 1, offset), draft.sum(reduced.sums)));
            },
            |()| {},
            |()| {},
        )
    }

    fn identity(&mut self, n: i64) -> Option<Node> {
        match self.identities.entry(n) {
            Entry::Occupied(memory) => Some(memory.get().get(0)),
            Entry::Vacant(none) => {
                let memory = Resident::new(self.bench.device(), &[[n, n]]).ok()?;
                let size = n as usize;
                let mut ones = vec![0.0_f32; size * size];
                ones.iter_mut().step_by(size + 1).for_each(|one| *one = 1.0);
                write(memory.get(0), &ones);
                Some(none.insert(memory).get(0))
            }
        }
    }
}

impl Health {
    /// Where the sum of all of `weight`'s is, and the bytes before it.
    fn slot(&mut self, weight: &str, device: Device) -> Result<(Node, usize), String> {
        let next = self.slots.len();
        let slot = *self.slots.entry(weight.to_owned()).or_insert(next);
        if slot / PAGE >= self.pages.len() {
            self.pages.push(Resident::new(device, &[[PAGE as i64, 1]])?);
        }
        Ok((self.pages[slot / PAGE].get(0), slot % PAGE * size_of::<f32>()))
    }

    fn first_bad(&self) -> Option<String> {
        let sums: Vec<f32> = self.pages.iter().flat_map(|page| read_f32(page.get(0))).collect();
        let bad = |(_, slot): &(&String, &usize)| !sums[**slot].is_finite();
        self.slots.iter().find(bad).map(|(weight, _)| weight.clone())
    }
}

/// The input of `node`, summed.
///
/// # Safety
/// The node's sources stay allocated until the draft is computed; `identity` is there where rows are routed.
unsafe fn reduce(
    draft: &Draft<'_>,
    node: TensorRef<'_>,
    layout: Layout,
    identity: Option<Node>,
    products: Products,
) -> Reduced {
    let source = |i| {
        let tensor = node.src(i).expect("a product has sources, and its layout was found").raw();
        // SAFETY: our own contract.
        let leaf = unsafe { draft.leaf(tensor) };
        // SAFETY: a leaf is a valid tensor.
        if unsafe { sys::ggml_is_contiguous(leaf.0.as_ptr()) } { leaf } else { draft.cont(leaf) }
    };
    match (layout, identity) {
        (Layout::Routed { tokens, slots, row_a_slot, .. }, Some(identity)) => {
            let sources = (source(1), source(2), identity);
            reduce::routed(draft, sources, (tokens, slots, row_a_slot), products)
        }
        (Layout::Routed { tokens: rows, .. }, None) => reduce::dense(draft, source(1), rows, 1),
        (Layout::Dense { rows, matrices }, _) => reduce::dense(draft, source(1), rows, matrices),
    }
}
