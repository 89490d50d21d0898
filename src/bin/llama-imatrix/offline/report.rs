//! `report`: matrices to look at.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use llama_imatrix::atomic_file::{self, Way};
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::report::page::{Source, page};
use llama_imatrix::report::plots;

use super::load::{Legacy, convergence_beside, load};
use crate::config::output::check_way;
use crate::config::overlap::Files;
use crate::config::replaceable::refuse_foreign_page;
use crate::ui::log;

/// Draws matrices on one self-contained HTML page, with FILE.lens.json and FILE.convergence.json where they lie beside a matrix
#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// Importance matrices, GGUF or legacy .dat; the others are compared with the first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The page's file [default: report.html, or no page with --png]
    #[arg(short, long, value_name = "PAGE")]
    output: Option<PathBuf>,
    /// The page's title [default: the names of the files]
    #[arg(long)]
    title: Option<String>,
    /// Write pictures to this folder, which is created if it does not exist
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
    /// The weight whose channels are in a picture [default: the first]
    #[arg(long, value_name = "NAME", requires = "png")]
    tensor: Option<String>,
    #[command(flatten)]
    legacy: Legacy,
}

pub(crate) fn run(args: &Report) -> anyhow::Result<()> {
    let default = args.png.is_none().then(|| PathBuf::from("report.html"));
    let output = args.output.clone().or(default);
    if let Some(path) = &output {
        refuse_overlap(args, path)?;
        if check_way(path)? != Way::Stream {
            refuse_foreign_page(path)?;
        }
    }
    let sources = args.files.iter().map(|path| source(path, args.legacy)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(path) = &output {
        let names = || sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let html = page(&sources, &args.title.clone().unwrap_or_else(names))?;
        atomic_file::save(path, |out| out.write_all(html.as_bytes()))
            .with_context(|| format!("cannot save '{}'", path.display()))?;
        log::info(format_args!("'{}': {} KiB", path.display(), html.len().div_ceil(1024)));
    }
    if let Some(folder) = &args.png {
        let written = plots::write_all(folder, &sources, args.tensor.as_deref())?;
        log::info(format_args!("'{}': {} pictures", folder.display(), written.len()));
    }
    Ok(())
}

/// Matrices, and the lens files beside them, are not replaced by the page.
fn refuse_overlap(args: &Report, page: &Path) -> anyhow::Result<()> {
    let mut files = Files::default();
    for file in &args.files {
        files.read("report", file.clone());
        files.read("report", LensFile::beside(file));
        files.read("report", ConvergenceFile::beside(file));
    }
    files.write("--output", page.to_owned());
    let pictures = args.files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "png"));
    for (folder, name) in
        args.png.iter().flat_map(|folder| pictures.clone().map(move |file| (folder, file.file_name())))
    {
        files.write("--png", folder.join(name.unwrap_or_default()));
    }
    files.refuse_overlap()
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
    let found = if legacy { Ok(None) } else { convergence_beside(path, &imatrix.entries, &imatrix.filled) };
    let convergence = found.unwrap_or_else(|note| {
        log::warn(format_args!("{note}"));
        notes.push(note);
        None
    });
    Ok(Source { name, imatrix, legacy, lens, convergence, notes })
}
