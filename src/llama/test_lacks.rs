//! For tests alone: devices that lack operations. Without the feature `test-hooks`, which a program that is installed does
//! not have, it does nothing.

use std::sync::LazyLock;

/// Returns true if `LLAMA_IMATRIX_TEST_LACKS`, a list such as `SQR,OUT_PROD`, has the operation of this name. Graphs of our
/// own that need it are then refused as on a device without it.
pub(super) fn is_lacked(op: &str) -> bool {
    static LACKED: LazyLock<String> = LazyLock::new(|| {
        let wanted = if cfg!(feature = "test-hooks") { std::env::var("LLAMA_IMATRIX_TEST_LACKS").ok() } else { None };
        wanted.unwrap_or_default()
    });
    LACKED.split(',').any(|lacked| lacked == op)
}
