//! `report`: matrices to look at.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use llama_imatrix::imatrix::{check_writable, save_atomic};
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::report::page::{Source, page};
use llama_imatrix::report::plots;

use super::load::{Legacy, load};
use crate::log;

/// A page to look at matrices: one file that loads nothing. What FILE.lens.json beside a matrix says is drawn too
#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// Importance matrices, GGUF or legacy .dat; the others are compared with the first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the page goes [default: report.html, or no page with --png]
    #[arg(short, long, value_name = "PAGE")]
    output: Option<PathBuf>,
    /// The page's title
    #[arg(long, default_value = "Importance matrix")]
    title: String,
    /// Write pictures to this folder, which is made if need be
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
    /// The weight whose channels are in a picture [default: the first]
    #[arg(long, value_name = "NAME", requires = "png")]
    tensor: Option<String>,
    #[command(flatten)]
    legacy: Legacy,
}

pub(super) fn run(args: &Report) -> anyhow::Result<()> {
    let default = args.png.is_none().then(|| PathBuf::from("report.html"));
    let output = args.output.clone().or(default);
    if let Some(path) = &output {
        check_writable(path).with_context(|| format!("cannot write '{}'", path.display()))?;
        let reads =
            |file: &PathBuf| file.canonicalize().ok().is_some_and(|file| Some(file) == path.canonicalize().ok());
        ensure!(!args.files.iter().any(reads), "'{}' is one of the matrices: -o names the page", path.display());
    }
    let sources = args.files.iter().map(|path| source(path, args.legacy)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(path) = &output {
        let html = page(&sources, &args.title)?;
        save_atomic(path, |out| out.write_all(html.as_bytes()))
            .with_context(|| format!("cannot save '{}'", path.display()))?;
        log::info(format_args!("'{}': {} KiB", path.display(), html.len().div_ceil(1024)));
    }
    if let Some(folder) = &args.png {
        let written = plots::write_all(folder, &sources, args.tensor.as_deref())?;
        log::info(format_args!("'{}': {} pictures", folder.display(), written.len()));
    }
    Ok(())
}

fn source(path: &Path, legacy: Legacy) -> anyhow::Result<Source> {
    let (imatrix, legacy) = load(path, legacy)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut notes = Vec::new();
    let beside = LensFile::beside(path);
    let lens = match LensFile::load(&beside) {
        Ok(lens) => Some(lens),
        Err(llama_imatrix::lens::file::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            // The matrix can be shown without it.
            let note = format!("'{}' is left out: {error}", beside.display());
            log::warn(format_args!("{note}"));
            notes.push(note);
            None
        }
    };
    Ok(Source { name, imatrix, legacy, lens, notes })
}
