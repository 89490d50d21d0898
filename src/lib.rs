// The README is written for a checkout: the first definition of a link counts, and here it leads to the packed files.
#![doc = "[LICENSE]: https://docs.rs/crate/llama-imatrix/latest/source/LICENSE"]
#![doc = "[assets/quickstart/README.md]: https://docs.rs/crate/llama-imatrix/latest/source/assets/quickstart/README.md"]
#![doc = "[docs/README.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/README.md"]
#![doc = "[docs/building.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/building.md"]
#![doc = "[docs/calibration.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/calibration.md"]
#![doc = "[docs/check.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/check.md"]
#![doc = "[docs/convergence.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/convergence.md"]
#![doc = "[docs/cluster.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/cluster.md"]
#![doc = "[docs/devices.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/devices.md"]
#![doc = "[docs/differences.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/differences.md"]
#![doc = "[docs/flags.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/flags.md"]
#![doc = "[docs/images/report.png]: https://docs.rs/crate/llama-imatrix/latest/source/docs/images/report.png"]
#![doc = "[docs/larger-than-memory.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/larger-than-memory.md"]
#![doc = "[docs/lens.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/lens.md"]
#![doc = "[docs/performance.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/performance.md"]
#![doc = "[docs/recipes.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/recipes.md"]
#![doc = "[docs/stats.md]: https://docs.rs/crate/llama-imatrix/latest/source/docs/stats.md"]
#![doc = "[vendor/README.md]: https://docs.rs/crate/llama-imatrix/latest/source/vendor/README.md"]
#![doc = ""]
// Its example evaluates a model.
#![cfg_attr(feature = "llama", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "llama"), doc = "Importance matrices for llama.cpp models, without llama.cpp.")]
//!
//! # Modules
//!
//! | module | contents | needs llama.cpp |
//! |---|---|---|
//! | [`gguf`] | validating reader and writer of GGUF files | no |
//! | [`atomic_file`] | replaces a file as a whole | no |
//! | [`imatrix`] | the matrix: load, merge, save as GGUF or `.dat` | no |
//! | [`stats`], [`report`] | statistics and their tables | no |
//! | [`convergence`] | whether more text would change the matrix | no |
//! | [`mixture`], [`check`] | `llama-quantize`'s rules; whether a matrix will do | no |
//! | [`lens`] | effect of each layer on the predictions | to measure |
//! | [`collect`] | sums the inputs of products, as they come | no |
//! | [`shown`] | rows shown to experts that saw few tokens | to show them |
//! | [`exact`] | sums that do not depend on the order of their terms | no |
//! | [`state`] | state files: resuming a run, sharing it out over machines | no |
//! | [`nextn`] | finds a model's `NextN` layers and checks a draft model | for loaded models |
//! | [`options`] | choices of how a model is loaded and evaluated | no |
//! | [`calibration`] | files, conversations, documents, chunks | for their tokens |
//! | [`perplexity`] | likelihoods and perplexity | no |
//! | [`quantize`] | quantization error per weight and type, and recipes at a size | for the errors |
#![cfg_attr(feature = "llama", doc = "| [`llama`] | the safe layer over llama.cpp | yes |")]
#![cfg_attr(feature = "llama", doc = "| [`products`] | faster matrix products on a CPU, with ggml's bits | yes |")]
#![cfg_attr(feature = "llama", doc = "| [`Session`], [`evaluate`] | a model over a text, collected | yes |")]
#![cfg_attr(not(feature = "llama"), allow(dead_code, unused_imports, reason = "what a run alone uses"))]

pub mod atomic_file;
pub mod calibration;
pub mod check;
pub mod collect;
pub mod convergence;
#[cfg(feature = "llama")]
pub mod evaluate;
pub mod exact;
pub mod gguf;
pub mod imatrix;
pub mod lens;
mod likelihood;
#[cfg(feature = "llama")]
pub mod llama;
pub mod mixture;
pub mod nextn;
pub mod options;
pub mod perplexity;
#[cfg(feature = "llama")]
pub mod products;
pub mod quantize;
mod random;
pub mod report;
pub mod shown;
pub mod state;
pub mod stats;
mod sums;

pub use collect::collector::{Collector, CollectorOptions};
#[cfg(feature = "llama")]
pub use evaluate::session::{Cancel, Collected, Progress, Session, SessionError, SessionOptions};
pub use imatrix::Imatrix;

#[cfg(test)]
mod tests {
    /// Links that work in a checkout and on docs.rs: by reference, with a definition above that comes first.
    #[test]
    fn the_readmes_links_lead_to_packed_files() {
        let (readme, here) = (include_str!("../README.md"), include_str!("lib.rs"));
        for folder in ["docs/", "vendor/", "assets/", "examples/", "scripts/"] {
            assert!(!readme.contains(&format!("]({folder}")), "a link to {folder} in the README is not by reference");
        }
        for (label, target) in readme.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")) {
            let definition = format!("[{label}]: https://docs.rs/crate/llama-imatrix/latest/source/{target}");
            assert!(here.contains(&definition), "src/lib.rs has no '{definition}'");
        }
    }

    /// The steps are lines such as "3. `Chunks::new` (`src/calibration/chunks.rs`) splits ..".
    #[test]
    fn each_step_of_contributings_walk_names_a_function_in_its_file() {
        let walk = include_str!("../CONTRIBUTING.md").split_once("twelve steps\n").map_or("", |(_, walk)| walk);
        let (mut steps, mut missing) = (0, Vec::new());
        for line in walk.lines().take_while(|line| !line.starts_with("## ")) {
            let mut parts = line.split('`');
            let (Some(number), Some(function), Some(" ("), Some(path)) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if number != format!("{}. ", steps + 1) {
                continue;
            }
            steps += 1;
            let code = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default();
            let name = function.rsplit("::").next().unwrap_or(function);
            if !code.contains(&format!("fn {name}(")) && !code.contains(&format!("fn {name}<")) {
                missing.push(format!("{path} has no fn {name}"));
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
        assert_eq!(steps, 12, "steps of the walk");
    }
}
