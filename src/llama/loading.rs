//! Loading a model: files that are refused before llama.cpp opens them, progress, and reasons for failures.

use std::any::Any;
use std::ffi::c_void;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use llama_cpp_sys_2 as sys;

use super::Error;
use super::cpu::has_amx;
use super::log::{Level, say};
use crate::gguf::{self, Kind};

/// Refuses files that are not models. llama.cpp's own errors for these name missing keys and tensors.
///
/// # Errors
/// [`Error::NotGguf`], [`Error::NotModel`]. A damaged file passes: llama.cpp reports the damage.
pub(super) fn refuse_other_kinds(path: &Path) -> Result<(), Error> {
    let Ok(file) = gguf::File::open(path) else { return refuse_other_magic(path) };
    match Kind::of(&file) {
        kind @ (Kind::Imatrix | Kind::State | Kind::Adapter | Kind::Projector) => {
            Err(Error::NotModel { path: path.to_owned(), kind })
        }
        _ => Ok(()),
    }
}

/// Returns true if llama.cpp would end the process because no device multiplies with a weight: one with a matrix per attention
/// head (MLA) that it has laid out for AMX. Warns of it.
pub(super) fn amx_aborts(path: &Path) -> bool {
    if !has_amx() {
        return false;
    }
    let Some(name) = repacked_per_head(path) else { return false };
    let text = "llama.cpp cannot multiply with it in AMX's layout: weights are not repacked, as with --no-repack";
    say(Level::Warn, &format!("{name} has a matrix per attention head, and {text}\n"));
    true
}

/// Returns the name of a weight with a matrix per attention head that AMX has a layout for; `None` if the model has none, or a
/// file of it cannot be read.
fn repacked_per_head(path: &Path) -> Option<String> {
    let plain = [gguf::DType::F32, gguf::DType::BF16];
    let files = gguf::File::open(path).ok()?.split_files(path)?;
    files.into_iter().find_map(|path| {
        let file = gguf::File::open(&path).ok()?;
        file.tensors().find_map(|tensor| {
            let per_head = tensor.name.contains(".attn_") && tensor.shape[2] > 1;
            (per_head && !plain.contains(&tensor.dtype)).then(|| tensor.name.to_owned())
        })
    })
}

fn refuse_other_magic(path: &Path) -> Result<(), Error> {
    let mut found = Vec::new();
    let failed = |source| Error::ModelFile { path: path.to_owned(), source };
    std::fs::File::open(path).map_err(failed)?.take(4).read_to_end(&mut found).map_err(failed)?;
    if gguf::MAGIC.starts_with(&found) {
        return Ok(()); // truncated
    }
    Err(Error::NotGguf { path: path.to_owned(), found: String::from_utf8_lossy(&found).into_owned() })
}

/// Progress of one call that loads a model.
pub(super) struct Loading<'p> {
    progress: &'p mut dyn FnMut(f32),
    /// A panic of `progress`: it must not unwind into C++.
    panic: Option<Box<dyn Any + Send>>,
}

impl<'p> Loading<'p> {
    pub(super) fn new(progress: &'p mut dyn FnMut(f32)) -> Self {
        Self { progress, panic: None }
    }

    /// Sets the progress callback. `self` must not be moved or used until the call with `params` has returned.
    pub(super) fn watch(&mut self, params: &mut sys::llama_model_params) {
        params.progress_callback = Some(on_progress);
        params.progress_callback_user_data = std::ptr::from_mut(self).cast();
    }

    /// Resumes a panic of `progress`.
    pub(super) fn resume_panic(self) {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
    }
}

/// Returns false to end the loading.
unsafe extern "C" fn on_progress(fraction: f32, loading: *mut c_void) -> bool {
    // SAFETY: the pointer is the one that `watch` set: a `Loading` that outlives the call into llama.cpp and that
    // nobody else uses meanwhile. llama.cpp calls back on the thread of that call.
    let loading = unsafe { &mut *loading.cast::<Loading<'_>>() };
    if loading.panic.is_some() {
        return false;
    }
    match catch_unwind(AssertUnwindSafe(|| (loading.progress)(fraction))) {
        Ok(()) => true,
        Err(panic) => {
            loading.panic = Some(panic);
            false
        }
    }
}

/// llama.cpp's error lines, without the names of its functions and without lines that only say that loading failed.
pub(super) fn load_reason(lines: &str) -> String {
    let without_function = |line: &str| {
        let line = line.strip_prefix("llama_model_load: error loading model: ").unwrap_or(line);
        let line = line.strip_prefix("llama_model_loader: ").unwrap_or(line);
        match line.split_once(": ") {
            Some((function, rest)) if function.starts_with("llama_") || function.starts_with("gguf_") => {
                rest.to_owned()
            }
            _ => line.to_owned(),
        }
    };
    let mut reasons: Vec<String> = Vec::new();
    for line in lines.split("; ").map(without_function) {
        if line != "failed to load model" && !line.starts_with("failed to load model from ") && !reasons.contains(&line)
        {
            reasons.push(line);
        }
    }
    if reasons.is_empty() { lines.to_owned() } else { reasons.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, ModelOptions};
    use super::*;

    fn quickstart() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart/quickstart.gguf")
    }

    #[test]
    fn loading_reports_fractions_up_to_the_whole() {
        let mut fractions = Vec::new();
        Model::load_with_progress(&quickstart(), &ModelOptions::default(), &mut |f| fractions.push(f)).unwrap();
        assert!(fractions.len() > 2 && fractions.is_sorted(), "{fractions:?}");
        assert_eq!(fractions.last(), Some(&1.0));
    }

    #[test]
    fn a_panic_of_the_progress_is_resumed_after_llama_cpp_has_returned() {
        let load = || Model::load_with_progress(&quickstart(), &ModelOptions::default(), &mut |_| panic!("stop here"));
        let panic = catch_unwind(AssertUnwindSafe(load)).map(|_| ()).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"stop here"));
    }

    #[test]
    fn weights_per_head_are_found_in_all_files_of_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number: u32| folder.path().join(format!("m-{number:05}-of-00002.gguf"));
        let write = |number: u32, weights: &[(&str, gguf::DType)]| {
            let mut writer = gguf::Writer::new();
            writer.set("split.count", 2_u16);
            for &(name, dtype) in weights {
                let bytes = dtype.bytes_for(32 * 2 * 3).unwrap();
                writer.tensor(name, dtype, &[32, 2, 3], vec![0; bytes as usize]).unwrap();
            }
            let mut bytes = Vec::new();
            writer.write_to(&mut bytes).unwrap();
            std::fs::write(path(number), bytes).unwrap();
        };
        write(1, &[]);
        assert_eq!(repacked_per_head(&path(1)), None, "the second file is missing");
        write(2, &[("blk.0.attn_k_b.weight", gguf::DType::BF16), ("blk.0.ffn_up_exps.weight", gguf::DType::Q8_0)]);
        assert_eq!(repacked_per_head(&path(1)), None);
        write(2, &[("blk.0.attn_k_b.weight", gguf::DType::BF16), ("blk.0.attn_v_b.weight", gguf::DType::Q8_0)]);
        assert_eq!(repacked_per_head(&path(1)).as_deref(), Some("blk.0.attn_v_b.weight"));
    }

    #[test]
    fn files_that_are_not_models_are_refused_with_their_kind() {
        let folder = tempfile::tempdir().unwrap();
        let load = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            Model::load(&path, &ModelOptions::default()).unwrap_err()
        };
        assert!(matches!(load("text", b"It was a bright day"), Error::NotGguf { found, .. } if found == "It w"));
        let mut matrix = Vec::new();
        gguf::Writer::new().set("general.type", "imatrix").write_to(&mut matrix).unwrap();
        assert!(matches!(load("matrix", &matrix), Error::NotModel { kind: Kind::Imatrix, .. }));
        // A truncated file is llama.cpp's to explain.
        assert!(matches!(load("cut", b"GGU"), Error::ModelLoad { .. }));
    }

    #[test]
    fn load_reasons_omit_function_names_and_repetitions() {
        for (lines, reason) in [
            (
                "llama_model_load: error loading model: tensor 'x' data is not within the file bounds; \
                 llama_model_load_from_file_impl: failed to load model",
                "tensor 'x' data is not within the file bounds",
            ),
            (
                "gguf_init_from_reader: failed to read magic; llama_model_load_from_file_impl: failed to load model",
                "failed to read magic",
            ),
            (
                "llama_model_load_from_file_impl: failed to load model",
                "llama_model_load_from_file_impl: failed to load model",
            ),
            ("llama.cpp gave no reason", "llama.cpp gave no reason"),
        ] {
            assert_eq!(load_reason(lines), reason);
        }
    }
}
