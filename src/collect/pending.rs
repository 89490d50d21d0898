//! Sums that lie on a device and are brought home now and then.

use std::any::Any;
use std::fmt;

/// Where activations are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SumOn {
    /// Where they lie: on a device those that are in its memory, by this program those in the host's.
    #[default]
    Auto,
    /// On the device that computes them, the CPU included: those in host memory too go through a graph.
    Device,
    /// By this program: what lies on a device is fetched.
    Host,
}

/// Batches after which sums on a device are brought home and begun anew: so few that f32 loses nothing that shows, and
/// counts stay far below 2^24. Counted from the run's first batch, so that the sums of a run do not depend on its lanes.
pub(super) const BATCHES_AWAY: usize = 16;

/// Sums of one capture on a device, in f32.
pub(crate) trait OnDevice: fmt::Debug + Send {
    /// Brings a copy of them home, waiting for the device.
    fn read(&self) -> Partial;

    /// Of these, the rows of each expert; none where the host counts them.
    fn counts(&self) -> Vec<f32>;

    /// Begins again from zero.
    fn clear(&mut self);

    /// For those who know what it is.
    #[cfg_attr(not(any(test, feature = "llama")), expect(dead_code, reason = "devices come with llama.cpp"))]
    fn as_any(&self) -> &dyn Any;
}

/// What came home.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Partial {
    /// By matrix and channel.
    pub(crate) sum2: Vec<f32>,
    pub(crate) sum: Vec<f32>,
    /// Rows of each expert; none where the host counts them.
    pub(crate) counts: Vec<f32>,
}

/// Sums that are away, and since when.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sums: Box<dyn OnDevice>,
    /// The batch of the last addition.
    pub(super) batch: usize,
}

/// Sums of a capture that is summed on a device, as they are at home.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct WideEntry {
    pub(super) sum2: Vec<f64>,
    pub(super) sum: Option<Vec<f64>>,
    pub(super) counts: Vec<i64>,
}

impl WideEntry {
    pub(super) fn add(&mut self, partial: &Partial) {
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
