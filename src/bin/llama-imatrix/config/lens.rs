//! The lens flags, checked and made ready.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use llama_imatrix::lens::LensOptions;
use llama_imatrix::lens::base::LogitsFile;
use llama_imatrix::lens::file::LensFile;

use super::output::{Output, check_way};
use super::replaceable::refuse_foreign_json;
use crate::args::Flags;
use crate::ui::log;

/// Measurements of layers that a run must make.
#[derive(Debug)]
pub(crate) struct Lens {
    /// Path of the lens file; `None` if the output is no regular file.
    pub(crate) path: Option<PathBuf>,
    /// Predictions to compare the layers with, if not the model's own.
    pub(crate) base: Option<Arc<LogitsFile>>,
    /// The measurements, without `base`: that takes the text's chunks.
    pub(crate) options: LensOptions,
}

impl Lens {
    /// Checks the lens flags, and that their files can be read and written.
    pub(super) fn new(flags: &Flags, output: &Output) -> anyhow::Result<Option<Self>> {
        ensure!(flags.kl_divergence_base.is_none() || flags.logit_lens, "--kl-divergence-base requires --logit-lens");
        ensure!(
            flags.kl_divergence_base.is_none() || !(flags.documents || flags.shuffle),
            "--kl-divergence-base cannot be combined with --documents or --shuffle: its logits are of the text's chunks in order"
        );
        if !flags.logit_lens && !flags.logit_prism && !flags.layer_similarity {
            return Ok(None);
        }
        let path = output.is_file().then(|| LensFile::beside(output.path()));
        match &path {
            Some(path) => {
                check_way(path)?;
                refuse_foreign_json(path, "lens")?;
            }
            None => log::warn(format_args!(
                "'{}' is not a regular file: no lens file is written beside it, only the tables on standard output",
                output.path().display()
            )),
        }
        let base = flags.kl_divergence_base.as_deref().map(LogitsFile::open).transpose()?.map(Arc::new);
        let options = LensOptions {
            lens: flags.logit_lens,
            prism: flags.logit_prism,
            similarity: flags.layer_similarity,
            per_chunk: flags.lens_tokens,
            seed: flags.lens_seed,
            base: None,
        };
        Ok(Some(Self { path, base, options }))
    }
}
