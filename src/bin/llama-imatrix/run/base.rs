//! Matrices that a run starts from, checked against the model.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};
use llama_imatrix::gguf::{self, Value};
use llama_imatrix::imatrix::{Imatrix, Loaded, Values};
use llama_imatrix::state::{Digest, model_files};

use crate::config::Collect;
use crate::config::in_files;

/// Names that a message shows.
const SHOWN: usize = 3;

/// Sums that a run starts from.
pub(crate) struct Base {
    pub(crate) imatrix: Imatrix,
    /// Digest of the files' bytes; `None` without files.
    pub(crate) digest: Option<Digest>,
}

impl Base {
    /// Loads and adds up `--in-file`'s matrices.
    ///
    /// # Errors
    /// A file that is no matrix, is of another model, or holds what no run leaves.
    pub(crate) fn load(task: &Collect) -> anyhow::Result<Self> {
        let (files, sizes) = (&task.merge.in_files, task.merge.chunk_sizes);
        let opened = in_files::open(files)?;
        let digest = (!opened.is_empty()).then(|| Digest::of_contents(opened.iter().map(|(_, file)| file.bytes())));
        let loaded = in_files::load(&opened, sizes)?;
        let model = if loaded.is_empty() { None } else { ModelTensors::read(task) };
        for (name, loaded) in &loaded {
            if let Some(problem) = in_files::invalid(name, loaded) {
                bail!("{problem}; hint: collect it again, or leave it out");
            }
            if let Some(model) = &model {
                model.check(name, loaded)?;
            }
        }
        Ok(Self { imatrix: in_files::add_up(&loaded, sizes)?.to_owned(), digest })
    }

    /// Leaves what goes into the matrix besides the sums, those of this run included.
    pub(crate) fn into_metadata(mut self, task: &Collect, nextn: bool) -> Self {
        let imatrix = &mut self.imatrix;
        imatrix.entries.clear();
        imatrix.settle_chunk_size(task.merge.chunk_sizes.run);
        imatrix.datasets.extend(task.datasets.iter().cloned());
        if nextn {
            imatrix.n_layer_nextn = 1;
        }
        self
    }
}

/// The tensors that entries of a matrix may be named after.
struct ModelTensors {
    /// The model's file, for messages.
    shown: String,
    /// Tensors of all files of the model and of its draft, with their shapes.
    tensors: BTreeMap<String, [u64; gguf::MAX_DIMS]>,
    /// Tensors of adapters: products with them are collected too.
    adapters: BTreeSet<String>,
    /// Layers of the model; its draft's come after them.
    n_layer: u64,
    has_draft: bool,
}

impl ModelTensors {
    /// `None` where a file cannot be read: llama.cpp, which reads it next, says what is wrong.
    fn read(task: &Collect) -> Option<Self> {
        let flags = &task.flags;
        let mut model = Self {
            shown: task.model.display().to_string(),
            tensors: BTreeMap::new(),
            adapters: BTreeSet::new(),
            n_layer: 0,
            has_draft: task.draft_model.is_some(),
        };
        for (i, path) in model_files(&task.model).ok()?.into_iter().enumerate() {
            let file = gguf::File::open(path).ok()?;
            if i == 0 {
                let arch = file.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
                model.n_layer = file.get(&format!("{arch}.block_count")).and_then(Value::as_u64).unwrap_or(0);
            }
            model.add(&file);
        }
        if let Some(draft) = &task.draft_model {
            model.add(&gguf::File::open(draft).ok()?);
        }
        for (path, _) in &flags.lora {
            let adapter = gguf::File::open(path).ok()?;
            model.adapters.extend(adapter.tensors().map(|tensor| tensor.name.to_owned()));
        }
        Some(model)
    }

    fn add(&mut self, file: &gguf::File<'_>) {
        for tensor in file.tensors() {
            self.tensors.entry(tensor.name.to_owned()).or_insert(tensor.shape);
        }
    }

    /// Fails if a matrix has entries of another model.
    fn check(&self, name: &str, loaded: &Loaded<impl Values>) -> anyhow::Result<()> {
        let foreign: Vec<_> = loaded
            .entries
            .keys()
            .filter(|weight| !self.knows(weight, loaded.n_layer_nextn))
            .map(String::as_str)
            .collect();
        ensure!(
            foreign.is_empty(),
            "'{name}' is of another model: '{}' has no tensor for {} of its {} entries ({}); hint: --in-file takes \
             matrices of the model that is evaluated",
            self.shown,
            foreign.len(),
            loaded.entries.len(),
            listed(&foreign)
        );
        for (weight, entry) in &loaded.entries {
            let Some(&[channels, _, n2, n3]) = self.tensors.get(weight) else { continue };
            let expected = channels.saturating_mul(n2).saturating_mul(n3);
            ensure!(
                entry.sum2.len() as u64 == expected,
                "inconsistent size of '{weight}': the --in-file '{name}' has {} values, the model's inputs {expected} \
                 ({channels} channels, {} matrices)",
                entry.sum2.len(),
                n2.saturating_mul(n3)
            );
        }
        Ok(())
    }

    fn knows(&self, weight: &str, n_layer_nextn: i32) -> bool {
        // A view of a weight has its name, and what was done to it behind that: `NAME (view)`, `NAME (reshaped)`.
        let tensor = weight.split(" (").next().unwrap_or(weight);
        if self.tensors.contains_key(tensor) || self.adapters.contains(tensor) {
            return true;
        }
        // A matrix of a run with a draft has the draft's layers, also where this run has no draft to know them by.
        let of_draft = tensor.starts_with("nextn.") || layer(tensor).is_some_and(|layer| layer >= self.n_layer);
        n_layer_nextn > 0 && !self.has_draft && of_draft
    }
}

/// N of `blk.N.*`.
fn layer(tensor: &str) -> Option<u64> {
    tensor.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Lists the first few names, and counts the others.
pub(crate) fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
