//! A large importance matrix: 60 layers of 256 experts, 1 GiB.

use std::collections::BTreeSet;
use std::io::Write;

use llama_imatrix::gguf::{Error, Writer};

use super::rng::Rng;

const LAYERS: u32 = 60;
const EXPERTS: usize = 256;
const CHANNELS: usize = 2912;
const CHUNKS: u32 = 100;
const CHUNK_SIZE: u32 = 512;
/// Rows an expert saw: 8 of 256 a token.
const ROWS: f32 = (CHUNKS * CHUNK_SIZE) as f32 / 32.0;

pub(crate) fn write(w: &mut dyn Write) -> Result<(), Error> {
    let values = EXPERTS * CHANNELS;
    // Means of 0.03 and variances about 1, for twice the values: each tensor is a window into them.
    let mut rng = Rng::named(&["matrix"]);
    let mut sums = Vec::with_capacity(2 * values);
    let mut squares = Vec::with_capacity(2 * values);
    for _ in 0..2 * values {
        let (mean, deviation) = (0.03 * rng.normal(), 1.0 + 0.2 * rng.normal());
        sums.push(ROWS * mean);
        squares.push(ROWS * (mean * mean + deviation * deviation));
    }
    let counts = vec![ROWS; EXPERTS];

    let layers =
        (0..LAYERS).flat_map(|layer| ["gate", "up", "down"].map(|part| format!("blk.{layer}.ffn_{part}_exps")));
    let weights: BTreeSet<String> = layers.map(|name| format!("{name}.weight")).collect();
    let mut writer = Writer::new();
    writer.set("general.type", "imatrix");
    writer.set("imatrix.datasets", vec!["calibration.txt".to_owned()]);
    writer.set("imatrix.chunk_count", CHUNKS);
    writer.set("imatrix.chunk_size", CHUNK_SIZE);
    let dims = [CHANNELS as u64, EXPERTS as u64];
    for weight in &weights {
        let first = rng.below(values);
        writer.f32_tensor(format!("{weight}.in_sum2"), &dims, &squares[first..first + values])?;
        writer.f32_tensor(format!("{weight}.counts"), &[1, EXPERTS as u64], counts.as_slice())?;
        writer.f32_tensor(format!("{weight}.in_sum"), &dims, &sums[first..first + values])?;
    }
    writer.write_to(w)
}
