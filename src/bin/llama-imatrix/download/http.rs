//! Answers and files over HTTP. A file is whole under its name, or not there. A download that broke off goes on where it
//! was, if the server still has the same version.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::mask::masked;
use super::partial::{Note, Partial};
use crate::ui::{log, progress};

/// Limit of an answer about a repository, far above any real one.
const MAX_ANSWER: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Client {
    agent: Agent,
}

/// A file to download.
pub(super) struct Source<'a> {
    pub(super) url: &'a str,
    /// Destination.
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
        serde_json::from_slice(&text).with_context(|| format!("{}: the answer is not JSON", masked(url)))
    }

    /// Downloads `source` to its path, unless the file there is current or the server cannot be reached.
    pub(super) fn fetch(&self, source: &Source) -> anyhow::Result<()> {
        let there = fs::metadata(source.path).ok().filter(fs::Metadata::is_file);
        if there.is_some() && source.unchanging {
            return Ok(());
        }
        let etag = there.as_ref().and_then(|_| fs::read_to_string(etag_path(source.path)).ok());
        let etag = etag.as_deref().map(str::trim).filter(|etag| !etag.is_empty());
        let note = Note::of(source.path).filter(|note| note.etag.is_some() || source.sha256.is_some());

        let (there, response) = match (there, self.ask(source, etag, note.as_ref())) {
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
            Partial::clear(source.path);
            return Ok(());
        }
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return save(response, source, 0);
        }
        let len = note.as_ref().map_or(0, |note| note.len);
        if goes_on(&response, note.as_ref()) {
            return save(response, source, len);
        }
        // The server has other bytes than those it was asked for.
        save(self.ask(source, None, None)?, source, 0)
    }

    /// Asks for the file: for what is not there yet, where a part of it is, and for nothing, where the server has the
    /// version of `etag`.
    fn ask(&self, source: &Source, etag: Option<&str>, note: Option<&Note>) -> anyhow::Result<Response<Body>> {
        let bearer = source.bearer.map(|token| format!("Bearer {token}"));
        let range = note.map(|note| format!("bytes={}-", note.len));
        let mut headers = Vec::new();
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        headers.extend(etag.map(|etag| ("If-None-Match", etag)));
        headers.extend(range.as_deref().map(|range| ("Range", range)));
        // Without it the digest, which is known, tells.
        headers.extend(note.and_then(|note| note.etag.as_deref()).map(|etag| ("If-Range", etag)));
        let response = self.get(source.url, &headers)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && note.is_some() {
            return self.ask(source, etag, None);
        }
        Ok(response)
    }

    fn get(&self, url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Response<Body>> {
        let mut request = self.agent.get(url);
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.call().map_err(|error| explain(url, &error))?;
        match response.status() {
            StatusCode::OK
            | StatusCode::NOT_MODIFIED
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                bail!(
                    "{}: HTTP status {status}; hint: check the model's name, and --hf-token if it needs one",
                    masked(url)
                )
            }
            status => bail!("{}: HTTP status {status}", masked(url)),
        }
    }
}

/// Returns true if an answer continues the bytes of `note`, of the same version.
fn goes_on(response: &Response<Body>, note: Option<&Note>) -> bool {
    let Some(note) = note else { return false };
    let same = match (&note.etag, text(response, &header::ETAG)) {
        (Some(noted), Some(etag)) => noted == etag,
        _ => true,
    };
    same && content_range(response).is_some_and(|(first, _)| first == note.len)
}

/// The first byte of a part, and the length of the whole if the server says it.
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, total) = text(response, &header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()))
}

/// Saves an answer behind the first `len` bytes, which came earlier. Where it breaks off and the version can be told, what
/// has come is kept for a later try.
fn save(response: Response<Body>, source: &Source, len: u64) -> anyhow::Result<()> {
    let Source { url, path, .. } = *source;
    ensure!(
        matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT),
        "{}: HTTP status {}",
        masked(url),
        response.status()
    );
    let cannot_write = || format!("cannot write '{}'", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(cannot_write)?;
    let etag = text(&response, &header::ETAG).map(str::to_owned);
    let strong = etag.clone().filter(|etag| !etag.starts_with("W/"));
    let can_go_on = strong.is_some() || source.sha256.is_some();
    let mut partial = Partial::open(path, Note { len, etag: strong })?;
    if let Err(error) = receive(response, source, &mut partial) {
        progress::finish();
        if can_go_on && error.is_broken_off && partial.len() > 0 && partial.keep().is_ok() {
            bail!("{:#}; hint: the same command resumes the download", error.error);
        }
        partial.discard();
        return Err(error.error);
    }
    // An ETag must never stand beside a file that is not its own.
    let etag_path = etag_path(path);
    let _ = fs::remove_file(&etag_path);
    partial.finish().with_context(cannot_write)?;
    if let (Some(etag), false) = (etag, source.unchanging) {
        fs::write(&etag_path, etag).with_context(|| format!("cannot write '{}'", etag_path.display()))?;
    }
    Ok(())
}

/// Why a file was not received.
struct Failure {
    /// True if the bytes received so far are valid.
    is_broken_off: bool,
    error: anyhow::Error,
}

fn receive(response: Response<Body>, source: &Source, partial: &mut Partial) -> Result<(), Failure> {
    let Source { url, path, .. } = *source;
    let broken_off = |error| Failure { is_broken_off: true, error };
    let cannot_write = |error: std::io::Error| {
        broken_off(anyhow::Error::from(error).context(format!("cannot write '{}'", path.display())))
    };
    let earlier = partial.len();
    let length = match content_range(&response) {
        Some((_, total)) if earlier > 0 => total,
        _ => response.body().content_length(),
    };
    let from = if earlier > 0 { format!(", from byte {earlier} on") } else { String::new() };
    log::info(format_args!("downloading {} to '{}'{from}", masked(url), path.display()));
    let mut digest = Sha256::new();
    if source.sha256.is_some() {
        partial.read(|bytes| digest.update(bytes)).map_err(cannot_write)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    progress::start_bytes(name, length);
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let done = partial.len();
        let cut_off = || match length {
            Some(length) => format!("{}: broke off after {done} of {length} bytes", masked(url)),
            None => format!("{}: broke off after {done} bytes", masked(url)),
        };
        let n = body.read(&mut buffer).with_context(cut_off).map_err(broken_off)?;
        if n == 0 {
            if length.is_some_and(|length| length != done) {
                return Err(Failure { is_broken_off: length > Some(done), error: anyhow::anyhow!(cut_off()) });
            }
            break;
        }
        partial.write(&buffer[..n]).map_err(cannot_write)?;
        if source.sha256.is_some() {
            digest.update(&buffer[..n]);
        }
        progress::set_bytes(partial.len());
    }
    progress::finish();
    let Some(expected) = source.sha256 else { return Ok(()) };
    let found = format!("{:x}", digest.finalize());
    if found == expected {
        return Ok(());
    }
    let error = anyhow::anyhow!("{}: its SHA-256 should be {expected}, found {found}", masked(url));
    Err(Failure { is_broken_off: false, error })
}

/// Returns the path where llama.cpp keeps a file's `ETag`.
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
