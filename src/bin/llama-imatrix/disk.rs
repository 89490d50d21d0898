//! Room on the disk, looked at before the run.

use std::path::Path;

use anyhow::ensure;
use llama_imatrix::gguf;

use crate::config::Collect;
use crate::log;

/// Bytes a channel and matrix in the output: two sums in f32.
const OUTPUT_BYTES: u64 = 8;
/// The same in a state with exact sums.
const EXACT_BYTES: u64 = 40;

/// Whether there is room for what the run will write: the matrix and the state, each beside the one that it replaces.
pub(crate) fn check_room(task: &Collect) -> anyhow::Result<()> {
    let path = task.merge.output.path();
    // A pipe or a device takes what it takes.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(values) = values(&task.model) else { return Ok(()) };
    let a_state = if task.accumulate == llama_imatrix::state::Accumulate::F64 { EXACT_BYTES } else { OUTPUT_BYTES };
    let needed = values.saturating_mul(2 * (OUTPUT_BYTES + a_state));
    match fs4::available_space(folder) {
        Ok(free) => ensure!(
            free >= needed,
            "cannot write '{}': its folder has {} MiB free, the matrix and the run's state need up to {} MiB",
            path.display(),
            free >> 20,
            (needed >> 20) + 1
        ),
        Err(error) => log::debug(format_args!("the room in '{}' is unknown: {error}", folder.display())),
    }
    Ok(())
}

/// Channels times matrices of all weights of layers.
fn values(model: &Path) -> Result<u64, gguf::Error> {
    let file = gguf::File::open(model)?;
    let weights = file.tensors().filter(|tensor| tensor.name.starts_with("blk.") && tensor.shape[1] > 1);
    Ok(weights.map(|tensor| tensor.shape[0].saturating_mul(tensor.shape[2]).saturating_mul(tensor.shape[3])).sum())
}
