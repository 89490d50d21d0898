//! Prints the ten channels that weigh most, of those of each matrix in comparison with its others: `heaviest MATRIX`.
//!
//! Needs no llama.cpp: `cargo run --no-default-features --example heaviest -- imatrix.gguf`.
#![expect(clippy::print_stdout, reason = "the result")]

use llama_imatrix::Imatrix;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: heaviest MATRIX")?;
    let imatrix = Imatrix::read(path)?;
    let mut channels = Vec::new();
    for (name, entry) in &imatrix {
        let importance = entry.importance();
        let width = entry.row_len().unwrap_or(importance.len()).max(1);
        for (matrix, columns) in importance.chunks(width).enumerate() {
            let mean = columns.iter().sum::<f32>() / columns.len() as f32;
            channels.extend(columns.iter().enumerate().map(|(i, &value)| (value / mean, value, name, matrix, i)));
        }
    }
    channels.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (times, value, name, matrix, channel) in channels.into_iter().take(10) {
        println!("{times:8.1} times the mean  {value:12.5}  {name}  matrix {matrix}, channel {channel}");
    }
    Ok(())
}
