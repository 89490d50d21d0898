/// Why an input could not be added.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The entry collected or loaded before has another size than the model's weight.
    #[error(
        "inconsistent size of '{weight}': the sums so far have {found} values, the model's inputs {expected} \
         ({channels} channels, {matrices} matrices); is an --in-file of another model?"
    )]
    Size {
        /// The weight.
        weight: String,
        /// Values in the sums so far.
        found: usize,
        /// Values the model needs.
        expected: usize,
        /// Channels of the input.
        channels: usize,
        /// Matrices of the weight.
        matrices: usize,
    },
    /// The entry has counts for another number of experts.
    #[error(
        "inconsistent expert count of '{weight}': the sums so far have {found} counts, the model {expected} experts"
    )]
    ExpertCount {
        /// The weight.
        weight: String,
        /// Counts so far.
        found: usize,
        /// Experts in the model.
        expected: usize,
    },
    /// A token was routed to an expert that does not exist.
    #[error("'{weight}': a token is routed to expert {found}, the model has {experts}")]
    ExpertId {
        /// The weight.
        weight: String,
        /// The id found.
        found: i32,
        /// Experts in the model.
        experts: usize,
    },
    /// An input of a shape or type that no known graph has.
    #[error("cannot collect '{weight}': {rule}, found {found}")]
    Input {
        /// The weight.
        weight: String,
        /// What is expected.
        rule: &'static str,
        /// What was there.
        found: String,
    },
    /// A weight came up more often than in the first batch, and a later batch has been added to its sums.
    #[error(
        "'{weight}' is used more often than in the first batch, and batches after this one have been added already: \
         run with one lane"
    )]
    Order {
        /// The weight.
        weight: String,
    },
    /// Earlier sums that exact ones cannot start from.
    #[error("'{weight}' of the --in-file cannot be added to exactly: {source}")]
    Earlier {
        /// The weight.
        weight: String,
        /// Why.
        source: crate::exact::Error,
    },
    /// A device could not sum.
    #[error("cannot sum the input of '{weight}' on {device}: {reason}")]
    Device {
        /// The weight.
        weight: String,
        /// The device's name.
        device: String,
        /// Why.
        reason: String,
    },
    /// A weight has shared its sums on a device with others, and no longer reads what they read.
    #[error(
        "'{weight}' does not read the same input as in the first chunk, and its sums on the device cannot be told apart \
         from the others': run with --sum-on host"
    )]
    Parted {
        /// The weight.
        weight: String,
    },
    /// Sums on a device are no longer numbers.
    #[error(
        "non-finite values detected in {weight}, summed on its device; the model or its numerics are broken at this \
         input (--sum-on host tells the channel and the token)"
    )]
    NonFiniteOnDevice {
        /// The weight.
        weight: String,
    },
    /// A lane has failed, and with it all others: the sums are not to be used.
    #[error("another lane has failed")]
    Stopped,
    /// A sum is no longer a number: the activations hold NaN or infinity, or their squares overflow.
    #[error(
        "non-finite values detected in {weight}: channel {channel} of matrix {matrix} sums to {value}; \
         the model or its numerics are broken at this input"
    )]
    NonFinite {
        /// The weight.
        weight: String,
        /// The matrix, 0 where there is one; the expert where they are routed.
        matrix: usize,
        /// The channel.
        channel: usize,
        /// The sum of squares; of exact sums, the input that they cannot hold.
        value: f32,
        /// The first token of the micro-batch with an activation that is not finite, if there is one.
        token: Option<usize>,
    },
}
