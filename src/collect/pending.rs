//! Sums that lie on a device and are brought home now and then.

use crate::sums::OnDevice;

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

/// Sums that are away, and since when.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sums: Box<dyn OnDevice>,
    /// The batch of the last addition.
    pub(super) batch: usize,
}
