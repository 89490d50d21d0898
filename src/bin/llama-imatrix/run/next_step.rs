//! What to do with a result: the commands that come next.

use std::path::{Path, PathBuf};

use crate::config::Collect;
use crate::ui::log;
use crate::ui::results::shell_word;

/// Type in the command for llama-quantize: small, and its quality depends on the matrix.
const TYPE: &str = "IQ4_XS";

/// Logs how to quantize with the matrix and how to inspect it, or how to merge shards.
pub(super) fn log_next(task: &Collect) {
    let output = task.merge.output.path();
    if !task.shard.is_whole() {
        let count = task.shard.count();
        log::info(format_args!(
            "next, after all {count} shards are complete: llama-imatrix merge {} -o imatrix.gguf",
            of_all_shards(output)
        ));
        return;
    }
    if !task.merge.output.is_file() {
        return;
    }
    let model = quantized(&task.model);
    log::info(format_args!(
        "next: llama-quantize --imatrix {} {} {} {TYPE}",
        shell_word(output),
        shell_word(&task.model),
        shell_word(&model)
    ));
    log::info(format_args!("to inspect it: llama-imatrix report {}", shell_word(output)));
}

/// `imatrix.*-of-4.state` for `imatrix.1-of-4.state`; files that are named otherwise stay as they are.
fn of_all_shards(path: &Path) -> String {
    let name = path.to_string_lossy();
    let all = name.rsplit_once("-of-").and_then(|(head, tail)| {
        let stem = head.trim_end_matches(|c: char| c.is_ascii_digit());
        (stem.len() < head.len()).then(|| format!("{stem}*-of-{tail}"))
    });
    all.unwrap_or_else(|| "SHARD..".to_owned())
}

/// The name of the quantized model, in the working folder: `model-IQ4_XS.gguf` for `folder/model-f16.gguf`.
fn quantized(model: &Path) -> PathBuf {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = stem.as_ref();
    // The first of several files: NAME-00001-of-00003.
    if let Some((head, _)) = name.split_once("-00001-of-") {
        name = head;
    }
    for kind in ["f32", "f16", "bf16"] {
        let ends = name.len().checked_sub(kind.len() + 1).and_then(|at| name.get(at..));
        if ends.is_some_and(|end| end.starts_with(['-', '.', '_']) && end[1..].eq_ignore_ascii_case(kind)) {
            name = &name[..name.len() - kind.len() - 1];
        }
    }
    PathBuf::from(format!("{name}-{TYPE}.gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantized_model_is_named_after_the_model_without_its_type() {
        for (model, name) in [
            ("models/Qwen3-8B-BF16.gguf", "Qwen3-8B-IQ4_XS.gguf"),
            ("a.f16.gguf", "a-IQ4_XS.gguf"),
            ("big-F32-00001-of-00003.gguf", "big-IQ4_XS.gguf"),
            ("quickstart.gguf", "quickstart-IQ4_XS.gguf"),
            ("é-f16", "é-IQ4_XS.gguf"),
        ] {
            assert_eq!(quantized(Path::new(model)), Path::new(name), "{model}");
        }
    }

    #[test]
    fn shards_are_merged_by_one_pattern() {
        assert_eq!(of_all_shards(Path::new("a/imatrix.1-of-4.state")), "a/imatrix.*-of-4.state");
        assert_eq!(of_all_shards(Path::new("mine")), "SHARD..");
        assert_eq!(of_all_shards(Path::new("x-of-4.state")), "SHARD..");
    }
}
