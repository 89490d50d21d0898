//! Caches of downloaded models, and `--cache-list`.

use std::fmt::Write as _;
#[cfg(feature = "download")]
use std::path::Path;
use std::path::PathBuf;

#[cfg(feature = "download")]
use anyhow::{Context as _, ensure};

/// `--cache-list`, as llama.cpp prints it: models in the Hugging Face cache by repository and quantization.
pub(crate) fn cached_models() -> String {
    let models = hub_folder().map(|folder| models_in(&folder)).unwrap_or_default();
    let mut text = format!("number of models in cache: {}\n", models.len());
    for (i, model) in models.iter().enumerate() {
        let _ = writeln!(text, "{:4}. {model}", i + 1);
    }
    text
}

/// Returns the cache of Hugging Face's own tools.
pub(super) fn hub_folder() -> Option<PathBuf> {
    let places = [
        ("LLAMA_CACHE", ""),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ];
    places.iter().find_map(|(name, below)| {
        let base = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(if below.is_empty() { base.into() } else { PathBuf::from(base).join(below) })
    })
}

/// `models--USER--MODEL/snapshots/COMMIT/FILE.gguf` gives `USER/MODEL:QUANT`.
fn models_in(folder: &std::path::Path) -> Vec<String> {
    let entries = |path: &std::path::Path| {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut models = Vec::new();
    for repo in entries(folder) {
        let Some(name) = repo.file_name().and_then(|name| name.to_str()?.strip_prefix("models--")) else { continue };
        let name = name.replace("--", "/");
        let mut files: Vec<_> = entries(&repo.join("snapshots")).iter().flat_map(|commit| entries(commit)).collect();
        files.extend(files.iter().flat_map(|path| entries(path)).collect::<Vec<_>>());
        let quants = files.iter().filter_map(|file| quant_of(file.file_name()?.to_str()?));
        models.extend(quants.map(|quant| format!("{name}:{quant}")));
    }
    models.sort();
    models.dedup();
    models
}

/// The quantization in a model's file name: its last part after `-` or `.`. Of a model in parts the first counts.
fn quant_of(file: &str) -> Option<String> {
    const NO_MODELS: [&str; 5] = ["mmproj", "mtp-", "eagle3-", "dflash-", "dspark-"];
    let stem = file.strip_suffix(".gguf")?;
    if NO_MODELS.iter().any(|part| stem.contains(part)) {
        return None;
    }
    let stem = match stem.rsplit_once("-of-") {
        Some((head, _)) => head.strip_suffix("-00001")?,
        None => stem,
    };
    let (_, quant) = stem.rsplit_once(['-', '.'])?;
    let right = quant.len() > 1 && quant.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    right.then(|| quant.to_ascii_uppercase())
}

/// Fails if a file is not in the cache.
#[cfg(feature = "download")]
pub(super) fn ensure_cached(path: &Path) -> anyhow::Result<()> {
    ensure!(path.is_file(), "'{}' does not exist, and --offline forbids downloads", path.display());
    Ok(())
}

/// Returns llama.cpp's own cache.
#[cfg(feature = "download")]
pub(super) fn cache_folder() -> anyhow::Result<PathBuf> {
    let places: &[(&str, &str)] = if cfg!(windows) {
        &[("LLAMA_CACHE", ""), ("LOCALAPPDATA", "llama.cpp")]
    } else if cfg!(target_os = "macos") {
        &[("LLAMA_CACHE", ""), ("HOME", "Library/Caches/llama.cpp")]
    } else {
        &[("LLAMA_CACHE", ""), ("XDG_CACHE_HOME", "llama.cpp"), ("HOME", ".cache/llama.cpp")]
    };
    let place = places.iter().find_map(|(name, below)| {
        let base = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(Path::new(&base).join(below))
    });
    place.context("there is no cache folder; hint: set LLAMA_CACHE to one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_read_as_hugging_face_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "models--org--m-GGUF/snapshots/abc/m-q4_k_m.gguf",
            "models--org--m-GGUF/snapshots/abc/mmproj-m-F16.gguf",
            "models--org--m-GGUF/snapshots/abc/Q8_0/m-Q8_0-00001-of-00002.gguf",
            "models--org--m-GGUF/snapshots/abc/Q8_0/m-Q8_0-00002-of-00002.gguf",
            "models--org--m-GGUF/snapshots/def/m-Q4_K_M.gguf",
            "datasets--org--d/snapshots/abc/d-F16.gguf",
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        assert_eq!(models_in(dir.path()), ["org/m-GGUF:Q4_K_M", "org/m-GGUF:Q8_0"]);
    }
}
