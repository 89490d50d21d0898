//! Sums in the memory of a device, transferred to the host at intervals.

use std::any::Any;
use std::fmt;

use super::Sums;

/// The f32 sums of one input on a device. Only implementations depend on the device.
pub(crate) trait OnDevice: Any + fmt::Debug + Send {
    /// Transfers a copy of the sums to the host, or nothing if they are zero. Waits for the device.
    fn read(&self) -> Partial;

    /// Transfers the number of rows of each expert; empty if the host counts them or they are zero.
    fn counts(&self) -> Vec<f32>;

    /// Sets all sums to zero.
    fn clear(&mut self);
}

/// Sums that were transferred from a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Partial {
    /// Sum of squares per matrix and channel.
    pub(crate) sum2: Vec<f32>,
    /// Sum per matrix and channel.
    pub(crate) sum: Vec<f32>,
    /// Number of rows of each expert; empty if the host counts them or they are zero.
    pub(crate) counts: Vec<f32>,
}

impl Sums<Vec<f64>> {
    /// Adds sums that were transferred from a device.
    pub(crate) fn add(&mut self, partial: &Partial) {
        let add = |to: &mut [f64], from: &[f32]| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to += f64::from(from);
            }
        };
        add(&mut self.sum2, &partial.sum2);
        if let Some(sum) = &mut self.sum {
            add(sum, &partial.sum);
        }
        for (to, &from) in self.counts.iter_mut().zip(&partial.counts) {
            *to += from as i64;
        }
    }
}
