//! `report`: matrices to look at.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use llama_imatrix::atomic_file::{self, Way};
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::quantize::curve::Curve;
use llama_imatrix::report::page::{NamedCurve, Source, page};
use llama_imatrix::report::plots;

use super::load::{Legacy, convergence_beside, lens_beside, load};
use crate::config::output::check_way;
use crate::config::overlap::Files;
use crate::config::replaceable::refuse_foreign_page;
use crate::ui::log;

/// Draws matrices on one self-contained HTML page, with FILE.lens.json and FILE.convergence.json if they are next to a matrix
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
    /// Also draw the least cost of a recipe at each size, from a file of recipe --curve; may be given more than once
    #[arg(long, value_name = "FILE")]
    recipe_curve: Vec<PathBuf>,
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
    let curves = args.recipe_curve.iter().map(|path| curve(path)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(path) = &output {
        let names = || sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let html = page(&sources, &curves, &args.title.clone().unwrap_or_else(names))?;
        atomic_file::save(path, |out| out.write_all(html.as_bytes()))
            .with_context(|| format!("cannot save '{}'", path.display()))?;
        log::info(format_args!("'{}': {} KiB", path.display(), html.len().div_ceil(1024)));
    }
    if let Some(folder) = &args.png {
        let written = plots::write_all(folder, &sources, &curves, args.tensor.as_deref())?;
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
    args.recipe_curve.iter().for_each(|file| files.read("--recipe-curve", file.clone()));
    files.write("--output", page.to_owned());
    let pictures = args.files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "png"));
    for (folder, name) in
        args.png.iter().flat_map(|folder| pictures.clone().map(move |file| (folder, file.file_name())))
    {
        files.write("--png", folder.join(name.unwrap_or_default()));
    }
    files.refuse_overlap()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn curve(path: &Path) -> anyhow::Result<NamedCurve> {
    Ok(NamedCurve { name: name(path), curve: Curve::load(path)? })
}

fn source(path: &Path, legacy: Legacy) -> anyhow::Result<Source> {
    let (imatrix, legacy) = load(path, legacy)?;
    let name = name(path);
    let mut notes = Vec::new();
    let (lens, note) = lens_beside(path);
    let (convergence, other) = match convergence_beside(path, &imatrix.entries, &imatrix.filled) {
        _ if legacy => (None, None),
        Ok(found) => (found, None),
        Err(note) => (None, Some(note)),
    };
    for note in [note, other].into_iter().flatten() {
        log::warn(format_args!("{note}"));
        notes.push(note);
    }
    Ok(Source { name, imatrix, legacy, lens, convergence, notes })
}
