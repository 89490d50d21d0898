//! The model that the flags name, downloaded.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::cache::{cache_folder, ensure_cached};
use super::http::{Client, Source};
use super::parts::all_parts;
use super::{docker, hugging_face};
use crate::args::Flags;

/// Returns the file of the model that `flags` name, downloaded if it is missing.
pub(crate) fn model(flags: &Flags) -> anyhow::Result<PathBuf> {
    ensure!(cfg!(feature = "llama"), "this program was built without llama.cpp and cannot evaluate a model");
    let remote = &flags.remote;
    if let Some(repo) = &remote.hf_repo {
        return hugging_face::model(repo, remote);
    }
    if let Some(repo) = &remote.docker_repo {
        return docker::model(repo, remote.offline);
    }
    let url = remote.url.as_deref().context("no model is named")?;
    from_url(url, flags)
}

/// `--model-url`: to where `--model` says, else into the cache. Parts come all, and all into the folder of the first.
fn from_url(url: &str, flags: &Flags) -> anyhow::Result<PathBuf> {
    ensure!(
        url.starts_with("http://") || url.starts_with("https://"),
        "expected a URL that begins with http:// or https://"
    );
    let urls = all_parts(url);
    let mut files = Vec::new();
    for url in &urls {
        let path = match &flags.model {
            Some(path) if urls.len() == 1 => path.clone(),
            Some(path) => path.with_file_name(file_name(url)?),
            None => cache_folder()?.join(file_name(url)?),
        };
        files.push((url.as_str(), path));
    }
    if flags.remote.offline {
        for (_, path) in &files {
            ensure_cached(path)?;
        }
    } else {
        // A token is Hugging Face's alone, whichever server was asked for.
        let ours = url.starts_with(&hugging_face::endpoint());
        let bearer = if ours { hugging_face::token(&flags.remote) } else { None };
        let client = Client::new();
        for (url, path) in &files {
            client.fetch(&Source { url, path, bearer, sha256: None, unchanging: false })?;
        }
    }
    files.into_iter().next().map(|(_, path)| path).context("the URL names no file")
}

/// Returns the file name of a URL: its last part, without `?`, `#` and what follows.
fn file_name(url: &str) -> anyhow::Result<&str> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let (_, below_host) = path.split_once("://").unwrap_or(("", path));
    match below_host.rsplit_once('/') {
        Some((_, name)) if !["", ".", ".."].contains(&name) && !name.contains('\\') => Ok(name),
        _ => bail!("the URL names no file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_urls() {
        assert_eq!(file_name("http://host/a/m.gguf?download=true#x").unwrap(), "m.gguf");
        for bad in ["http://host", "http://host/", "http://host/a/..", "http://host/?m.gguf", r"http://host/..\m"] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }
}
