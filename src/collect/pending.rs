//! Sums that lie on a device and are brought home now and then.

use crate::sums::OnDevice;

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
