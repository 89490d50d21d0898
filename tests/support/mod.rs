//! Tiny models made in Rust, for tests and for comparing with llama.cpp's tool: random weights, the same bytes for the
//! same name on every machine, a few hundred KiB each, milliseconds a chunk.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each target that includes this module uses its part of it"
)]

mod arch;
mod check;
mod hostile;
mod model;
mod nextn;
mod quant;
mod rng;
mod text;
mod vocab;

use std::path::Path;
use std::{fs, io};

pub use arch::qwen3moe::{DEAD_EXPERT, DEAD_LAYER};
use arch::{
    bert, command_r, deepseek2, dream, experts, gemma2, gemma3, gpt2, lfm2, llada, llama, mamba, mpt, quantized, qwen2,
    qwen3moe,
};
pub use check::CHECK_MODELS;
pub use hostile::{HOSTILE, truncated};
pub use nextn::{DRAFTS, NEXTN};
pub use text::{LATE, text};

/// For a test that ends early: says what it lacks. Where CI is set everything is there, and its lack is a failure.
#[expect(clippy::print_stderr, reason = "what was skipped, for those who run the tests")]
pub fn cannot_test(lacks: &str) {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!ci, "CI is set, and this test cannot run: {lacks}");
    eprintln!("skipped: {lacks}");
}

/// Seed and words of the text that `write_all` puts beside the models.
const CALIBRATION: (usize, u64) = (8000, 1);

pub struct TestModel {
    /// Its file's name without `.gguf`.
    pub name: &'static str,
    /// What it is there for.
    pub about: &'static str,
    build: fn() -> Vec<u8>,
}

impl TestModel {
    /// The bytes of its GGUF file.
    pub fn bytes(&self) -> Vec<u8> {
        (self.build)()
    }
}

/// Models that run.
pub const MODELS: &[TestModel] = &[
    TestModel {
        name: "llama",
        about: "dense f32, grouped heads, 3 layers, an output matrix of its own, BOS",
        build: llama::build,
    },
    TestModel {
        name: "qwen3moe",
        about: "2 of 8 experts a token, expert 5 of layer 1 never routed to",
        build: qwen3moe::build,
    },
    TestModel {
        name: "deepseek2",
        about: "MLA with a matrix a head, a dense layer first, shared and routed experts",
        build: deepseek2::build,
    },
    TestModel {
        name: "gemma3",
        about: "tied embeddings, five layers with a window of 48 tokens and a global one",
        build: gemma3::build,
    },
    TestModel { name: "gemma2", about: "tied embeddings, soft caps on attention and logits", build: gemma2::build },
    TestModel { name: "mamba", about: "recurrent, activations in three dimensions", build: mamba::build },
    TestModel { name: "lfm2", about: "hybrid of short convolutions and attention", build: lfm2::build },
    TestModel { name: "llada", about: "diffusion (no causal mask, no cache)", build: llada::build },
    TestModel { name: "dream", about: "diffusion with biases and grouped heads", build: dream::build },
    TestModel { name: "qwen2", about: "dense with biases, weights in f16 and Q8_0", build: qwen2::build },
    TestModel {
        name: "gpt2",
        about: "learned positions, one matrix for q, k and v, trained on 1024 tokens",
        build: gpt2::build,
    },
];

/// Models whose weights are of types that none of the others has.
pub const QUANTIZED: &[TestModel] = &[TestModel {
    name: "k-quants",
    about: "2 of 8 experts a token, weights in Q4_K, Q5_K and Q6_K",
    build: quantized::build,
}];

/// Models that run, but not with upstream's tool, which aborts.
pub const BEYOND: &[TestModel] =
    &[TestModel { name: "bert", about: "an encoder: no logits, no mask, no cache", build: bert::build }];

/// Models that are too large to be written with the others.
pub const LARGE: &[TestModel] = &[
    TestModel { name: "llama-wide", about: "llama with weights of 138 MiB", build: llama::build_wide },
    TestModel {
        name: "k-quants-wide",
        about: "k-quants with weights of 101 MiB in Q4_K",
        build: quantized::build_wide,
    },
];

/// Models whose residual stream has a structure that none of the others has.
pub const STREAMS: &[TestModel] = &[
    TestModel {
        name: "command-r",
        about: "attention and feed-forward network in parallel, a scale on the logits",
        build: command_r::build,
    },
    TestModel { name: "mpt", about: "activation scales in the feed-forward network", build: mpt::build },
];

/// Models whose experts have operations that none of the others has.
pub const EXPERTS: &[TestModel] = &[
    TestModel { name: "gpt-oss", about: "biases and a clamped activation", build: experts::gpt_oss },
    TestModel { name: "deepseek2-fused", about: "gate and up in one matrix", build: deepseek2::build_fused },
    TestModel { name: "smallthinker", about: "a rectifier", build: experts::smallthinker },
    TestModel { name: "llama4", about: "weights on the experts' inputs", build: experts::llama4 },
    TestModel { name: "scaled", about: "a scale per expert", build: experts::scaled },
];

/// The bytes of the model of that name, of whatever list.
pub fn build(name: &str) -> Vec<u8> {
    let lists = [MODELS, QUANTIZED, BEYOND, STREAMS, EXPERTS, LARGE, HOSTILE, NEXTN, DRAFTS];
    let model = lists.into_iter().flatten().find(|model| model.name == name);
    model.unwrap_or_else(|| panic!("no test model is called {name}")).bytes()
}

/// The text that `write_all` puts beside the models.
pub fn calibration() -> String {
    let (words, seed) = CALIBRATION;
    text(words, seed)
}

/// Writes the models, quantized ones too, as `DIR/NAME.gguf`, those in `BEYOND` as `DIR/beyond/NAME.gguf`, those in `STREAMS` as
/// `DIR/streams/NAME.gguf`, the hostile ones as
/// `DIR/hostile/NAME.gguf`, those with NextN layers and their drafts as `DIR/nextn/NAME.gguf`, and
/// `DIR/calibration.txt`, and those for `check` in `DIR/check`.
pub fn write_all(dir: &Path) -> io::Result<()> {
    let [beyond, streams, hostile, nextn] = ["beyond", "streams", "hostile", "nextn"].map(|name| dir.join(name));
    let lists = [
        (dir, MODELS),
        (dir, QUANTIZED),
        (&beyond, BEYOND),
        (&streams, STREAMS),
        (&hostile, HOSTILE),
        (&nextn, NEXTN),
        (&nextn, DRAFTS),
    ];
    for (dir, models) in lists {
        fs::create_dir_all(dir)?;
        for model in models {
            fs::write(dir.join(model.name).with_extension("gguf"), model.bytes())?;
        }
    }
    check::write_check(&dir.join("check"))?;
    fs::write(dir.join("calibration.txt"), calibration())
}

#[cfg(test)]
mod tests {
    use llama_imatrix::gguf::File;

    use super::*;

    #[test]
    fn models_are_small_valid_and_the_same_each_time() {
        for model in MODELS.iter().chain(NEXTN) {
            let bytes = model.bytes();
            assert!(bytes.len() < 1_000_000, "{}: {} bytes", model.name, bytes.len());
            assert_eq!(bytes, build(model.name), "{}", model.name);
            let file = File::from_bytes(bytes).unwrap_or_else(|error| panic!("{}: {error}", model.name));
            let arch = file.get("general.architecture").and_then(|value| value.as_str());
            if !model.name.starts_with("nextn") {
                assert_eq!(arch, Some(model.name));
            }
        }
    }

    #[test]
    fn text_is_the_same_each_time_and_has_its_late_character_once() {
        for words in [1, 10, 1000] {
            let text = text(words, 7);
            assert_eq!(text, super::text(words, 7));
            assert_eq!(text.matches(LATE).count(), 1, "{words} words");
        }
        assert_ne!(text(100, 1), text(100, 2));
    }
}
