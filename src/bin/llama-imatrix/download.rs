//! Models from elsewhere: `--model-url`, `--hf-repo`, `--docker-repo`. Files lie in the cache under the names that
//! llama.cpp gives them, so that what one program has downloaded the other finds.

mod docker;
mod http;
mod hugging_face;
mod partial;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::flags::Flags;
use http::{Client, Source};

/// The file of the model that `flags` name, downloaded if it is not there.
pub(crate) fn model(flags: &Flags) -> anyhow::Result<PathBuf> {
    ensure!(cfg!(feature = "llama"), "this program was built without llama.cpp: it has no use for a model");
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

/// A URL without the user and the password in it.
pub(crate) fn masked(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]).into(),
        None => url.into(),
    }
}

/// `--model-url`: to where `--model` says, else into the cache. Parts come all, and all into the folder of the first.
fn from_url(url: &str, flags: &Flags) -> anyhow::Result<PathBuf> {
    ensure!(url.starts_with("http://") || url.starts_with("https://"), "a URL begins with http:// or https://");
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

fn ensure_cached(path: &Path) -> anyhow::Result<()> {
    ensure!(path.is_file(), "'{}' is not there, and --offline forbids to download it", path.display());
    Ok(())
}

/// What a URL's file is called: its last part, without what follows `?` or `#`.
fn file_name(url: &str) -> anyhow::Result<&str> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let (_, below_host) = path.split_once("://").unwrap_or(("", path));
    match below_host.rsplit_once('/') {
        Some((_, name)) if !["", ".", ".."].contains(&name) && !name.contains('\\') => Ok(name),
        _ => bail!("the URL names no file"),
    }
}

/// llama.cpp's own folder.
fn cache_folder() -> anyhow::Result<PathBuf> {
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
    place.context("no place for the cache: set LLAMA_CACHE to a folder")
}

/// `PREFIX-00001-of-0000N.gguf`: prefix, which part, how many.
fn part_of(path: &str) -> Option<(&str, u32, u32)> {
    let number = |text: &str| text.parse().ok().filter(|_| text.len() == 5 && !text.starts_with('+'));
    let (head, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, index) = head.rsplit_once('-')?;
    Some((prefix, number(index)?, number(count)?)).filter(|&(prefix, _, count)| !prefix.is_empty() && count > 1)
}

fn all_parts(url: &str) -> Vec<String> {
    match part_of(url) {
        None => vec![url.to_owned()],
        Some((prefix, _, count)) => (1..=count).map(|i| format!("{prefix}-{i:05}-of-{count:05}.gguf")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_names() {
        assert_eq!(part_of("a/m-Q8_0-00002-of-00003.gguf"), Some(("a/m-Q8_0", 2, 3)));
        for whole in
            ["m.gguf", "m-00001-of-00001.gguf", "m-1-of-2.gguf", "m-00001-of-00002.bin", "-00001-of-00002.gguf"]
        {
            assert_eq!(part_of(whole), None, "{whole}");
            assert_eq!(all_parts(whole), [whole]);
        }
        assert_eq!(all_parts("h/m-00002-of-00002.gguf"), ["h/m-00001-of-00002.gguf", "h/m-00002-of-00002.gguf"]);
    }

    #[test]
    fn files_are_named_by_their_urls() {
        assert_eq!(file_name("http://host/a/m.gguf?download=true#x").unwrap(), "m.gguf");
        for bad in ["http://host", "http://host/", "http://host/a/..", "http://host/?m.gguf", r"http://host/..\m"] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(masked("https://me:secret@host/m.gguf"), "https://***@host/m.gguf");
        assert_eq!(masked("https://host/m@1.gguf"), "https://host/m@1.gguf");
        assert_eq!(masked("user/model"), "user/model");
    }
}
