//! Sums on a device that have not been transferred to the host yet.

use crate::sums::OnDevice;

/// Number of batches after which sums on a device are transferred to the host and reset to zero. This is often enough
/// that f32 rounding stays negligible and counts stay far below 2^24. Intervals are counted from the first batch of the
/// run, so the sums do not depend on the number of lanes.
pub(super) const BATCHES_AWAY: usize = 16;

/// Sums on a device since the last transfer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sums: Box<dyn OnDevice>,
    /// The batch of the last addition.
    pub(super) batch: usize,
    /// True if nothing was added since the last transfer.
    pub(super) empty: bool,
}
