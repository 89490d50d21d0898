//! Answers and files over HTTP. A file is whole under its name, or not there.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::masked;
use crate::{log, progress};

/// No answer about a repository is near this.
const MAX_ANSWER: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Client {
    agent: Agent,
}

/// A file to be had.
pub(super) struct Source<'a> {
    pub(super) url: &'a str,
    /// Where it goes.
    pub(super) path: &'a Path,
    pub(super) bearer: Option<&'a str>,
    /// The digest it must have, in lower case.
    pub(super) sha256: Option<&'a str>,
    /// The URL always gives the same bytes: a file that is there needs no question.
    pub(super) unchanging: bool,
}

impl Client {
    pub(super) fn new() -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("llama-imatrix/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_resolve(Some(PATIENCE))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        Self { agent: config.new_agent() }
    }

    /// The JSON that a URL gives.
    pub(super) fn json(&self, url: &str, headers: &[(&str, &str)]) -> anyhow::Result<serde_json::Value> {
        let mut response = self.get(url, headers)?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let text = text.map_err(|error| explain(url, &error))?;
        serde_json::from_slice(&text).with_context(|| format!("{}: the answer is no JSON", masked(url)))
    }

    /// Has `source` at its path: downloaded, or, if the server has nothing newer or nothing at all, what is there.
    pub(super) fn fetch(&self, source: &Source) -> anyhow::Result<()> {
        let there = fs::metadata(source.path).ok().filter(fs::Metadata::is_file);
        if there.is_some() && source.unchanging {
            return Ok(());
        }
        let etag = there.as_ref().and_then(|_| fs::read_to_string(etag_path(source.path)).ok());
        let etag = etag.as_deref().map(str::trim).filter(|etag| !etag.is_empty());
        let bearer = source.bearer.map(|token| format!("Bearer {token}"));
        let mut headers = Vec::new();
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        headers.extend(etag.map(|etag| ("If-None-Match", etag)));

        let (there, response) = match (there, self.get(source.url, &headers)) {
            (None, response) => (None, response?),
            (Some(there), Ok(response)) => (Some(there), response),
            (Some(_), Err(error)) => {
                let path = source.path.display();
                log::warn(format_args!("{error:#}; using '{path}', which was downloaded before"));
                return Ok(());
            }
        };
        let newer = |there: &fs::Metadata| match text(&response, &header::ETAG) {
            Some(newest) => Some(newest) != etag,
            None => response.body().content_length().is_some_and(|length| length != there.len()),
        };
        if there.is_some_and(|there| response.status() == StatusCode::NOT_MODIFIED || !newer(&there)) {
            log::info(format_args!("using '{}', which was downloaded before", source.path.display()));
            return Ok(());
        }
        save(response, source)
    }

    fn get(&self, url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Response<Body>> {
        let mut request = self.agent.get(url);
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.call().map_err(|error| explain(url, &error))?;
        match response.status() {
            StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                bail!("{}: HTTP status {status}; is there such a model, and does it need --hf-token?", masked(url))
            }
            status => bail!("{}: HTTP status {status}", masked(url)),
        }
    }
}

/// Through a temporary file beside `path`, which is gone when anything fails.
fn save(response: Response<Body>, source: &Source) -> anyhow::Result<()> {
    let Source { url, path, .. } = *source;
    let cannot_write = || format!("cannot write '{}'", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(cannot_write)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".download-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).with_context(cannot_write)?;

    let etag = text(&response, &header::ETAG).map(str::to_owned);
    let length = response.body().content_length();
    log::info(format_args!("downloading {} to '{}'", masked(url), path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    progress::start_bytes(name, length);
    let mut body = response.into_body().into_reader();
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut done: u64 = 0;
    loop {
        let cut_off = || match length {
            Some(length) => format!("{}: broke off after {done} of {length} bytes", masked(url)),
            None => format!("{}: broke off after {done} bytes", masked(url)),
        };
        let n = body.read(&mut buffer).with_context(cut_off)?;
        if n == 0 {
            ensure!(length.is_none_or(|length| length == done), cut_off());
            break;
        }
        file.write_all(&buffer[..n]).with_context(cannot_write)?;
        if source.sha256.is_some() {
            digest.update(&buffer[..n]);
        }
        done += n as u64;
        progress::set_bytes(done);
    }
    progress::finish();
    if let Some(expected) = source.sha256 {
        let found = format!("{:x}", digest.finalize());
        ensure!(found == expected, "{}: its SHA-256 should be {expected}, found {found}", masked(url));
    }
    // An ETag must never stand beside a file that is not its own.
    let etag_path = etag_path(path);
    let _ = fs::remove_file(&etag_path);
    file.persist(path).map_err(|error| error.error).with_context(cannot_write)?;
    if let (Some(etag), false) = (etag, source.unchanging) {
        fs::write(&etag_path, etag).with_context(|| format!("cannot write '{}'", etag_path.display()))?;
    }
    Ok(())
}

/// Where llama.cpp keeps a file's `ETag`.
fn etag_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".etag");
    name.into()
}

fn text<'a>(response: &'a Response<Body>, name: &header::HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

fn explain(url: &str, error: &ureq::Error) -> anyhow::Error {
    anyhow::anyhow!("{}: cannot download: {error}", masked(url))
}
