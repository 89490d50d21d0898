/// An error of collecting an input.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The sums so far have another size than the model's weight.
    #[error(
        "inconsistent size of '{weight}': the sums so far have {found} values, the model's inputs {expected} \
         ({channels} channels, {matrices} matrices); hint: each --in-file must be of the same model"
    )]
    Size {
        /// The weight.
        weight: String,
        /// Number of values in the sums so far.
        found: usize,
        /// Number of values that the model needs.
        expected: usize,
        /// Number of channels of the input.
        channels: usize,
        /// Number of matrices of the weight.
        matrices: usize,
    },
    /// The sums so far have counts for another number of experts.
    #[error(
        "inconsistent expert count of '{weight}': the sums so far have {found} counts, the model {expected} experts"
    )]
    ExpertCount {
        /// The weight.
        weight: String,
        /// Number of counts so far.
        found: usize,
        /// Number of experts in the model.
        expected: usize,
    },
    /// A token was routed to an expert that does not exist.
    #[error("'{weight}': a token is routed to expert {found}, the model has {experts}")]
    ExpertId {
        /// The weight.
        weight: String,
        /// Expert id.
        found: i32,
        /// Number of experts in the model.
        experts: usize,
    },
    /// The input has an unsupported shape or type, or cannot be read.
    #[error("cannot collect '{weight}': {rule}, found {found}")]
    Input {
        /// The weight.
        weight: String,
        /// The rule that the input breaks.
        rule: &'static str,
        /// The input that was found.
        found: String,
    },
    /// A batch uses a weight more often than the first batch did, and a later batch has already added to its sums.
    #[error(
        "'{weight}' is used more often than in the first batch, and later batches have already been added; \
         hint: run with --lanes 1"
    )]
    Order {
        /// The weight.
        weight: String,
    },
    /// Earlier sums cannot be converted to exact ones.
    #[error("cannot convert the sums of '{weight}' in the --in-file to exact sums: {source}")]
    Earlier {
        /// The weight.
        weight: String,
        /// The cause.
        source: crate::exact::Error,
    },
    /// A device failed to sum an input.
    #[error("cannot sum the input of '{weight}' on {device}: {reason}")]
    Device {
        /// The weight.
        weight: String,
        /// The device's name.
        device: String,
        /// The cause.
        reason: String,
    },
    /// A weight that shared sums on a device with other weights no longer reads the same input.
    #[error(
        "'{weight}' does not read the same input as in the first batch, and its sums on the device cannot be separated \
         from those of other weights; hint: run with --sum-on host"
    )]
    Parted {
        /// The weight.
        weight: String,
    },
    /// A sum on a device is not finite.
    #[error(
        "non-finite values detected in {weight}, summed on its device; the model or its numerics are broken at this \
         input; hint: --sum-on host reports the channel and the token"
    )]
    NonFiniteOnDevice {
        /// The weight.
        weight: String,
    },
    /// Another lane has failed. The sums must not be used.
    #[error("another lane has failed")]
    Stopped,
    /// A sum is not finite: an activation is NaN or infinite, or the sum overflows. An exact sum may also be out of
    /// range.
    #[error(
        "non-finite values detected in {weight}: channel {channel} of matrix {matrix} sums to {value}; \
         the model or its numerics are broken at this input"
    )]
    NonFinite {
        /// The weight.
        weight: String,
        /// Index of the matrix, or of the expert.
        matrix: usize,
        /// Index of the channel.
        channel: usize,
        /// The sum of squares; for exact sums, the input that is out of range.
        value: f32,
        /// First token of the micro-batch with an activation that is not finite; `None` if all are finite.
        token: Option<usize>,
    },
}
