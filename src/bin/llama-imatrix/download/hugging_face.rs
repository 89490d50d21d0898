//! Repositories of Hugging Face, and of servers that answer as it does. The cache is the one its own tools use: blobs
//! by digest, and snapshots of commits that link to them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::cache::hub_folder;
use super::http::{Client, Source};
use super::parts::part_of;
use crate::args::Remote;
use crate::ui::log;

/// Parts of names of files that are no models, or incomplete ones.
const NO_MODELS: [&str; 6] = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];
/// Quantizations to take if none is named; then the first file.
const PREFERRED: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// A file of a repository at one commit.
#[derive(Debug, Clone, PartialEq)]
struct RepoFile {
    /// Its name in the repository.
    name: String,
    /// Its place in the snapshot.
    place: PathBuf,
    /// Its digest: SHA-256 for large files, SHA-1 as git has it for small ones.
    oid: Option<String>,
}

/// Files of a repository, and their places in the cache.
struct Listing {
    commit: String,
    /// The branch to be noted in the cache once its files are there; none if this is the cache.
    branch: Option<String>,
    files: Vec<RepoFile>,
}

/// `--hf-repo`.
pub(super) fn model(repo_and_tag: &str, remote: &Remote) -> anyhow::Result<PathBuf> {
    let mut parts = repo_and_tag.split(':');
    let repo = parts.next().unwrap_or_default();
    let tag = parts.next_back().filter(|tag| !tag.is_empty());
    ensure!(is_repo(repo), "invalid repository, expected USER/MODEL[:QUANT]");
    let cache = hub_folder().context("there is no cache folder; hint: set LLAMA_CACHE to one")?;
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    let token = token(remote);

    let client = Client::new();
    let cached = || cached(&folder).filter(|listing| !listing.files.is_empty());
    let listing = if remote.offline {
        cached().with_context(|| {
            format!("no file of {repo} is in '{}', and --offline forbids downloads", cache.display())
        })?
    } else {
        match (list(&client, repo, &folder, token), cached) {
            (Ok(listing), _) => listing,
            (Err(error), cached) => match cached() {
                None => return Err(error),
                Some(listing) => {
                    log::warn(format_args!("{error:#}; using what was downloaded before"));
                    listing
                }
            },
        }
    };
    let first = match &remote.hf_file {
        Some(file) => listing.files.iter().find(|candidate| candidate.name == *file),
        None => choose(&listing.files, tag),
    };
    let Some(first) = first else {
        let wanted = remote.hf_file.as_deref().or(tag).unwrap_or("model");
        let names: Vec<_> = listing.files.iter().map(|file| &*file.name).filter(|name| is_gguf(name)).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let place = if listing.branch.is_some() { "the repository" } else { "the cache" };
        bail!("no {wanted} in {place}, whose GGUF files are: {names}");
    };
    for file in parts_of(&listing.files, first)? {
        if file.place.exists() {
            continue;
        }
        ensure!(listing.branch.is_some(), "'{}' is not in the cache", file.name);
        download(&client, repo, &listing.commit, &folder, file, token)?;
    }
    if let Some(branch) = &listing.branch {
        let path = folder.join("refs").join(branch);
        let written =
            fs::create_dir_all(path.parent().unwrap_or(&folder)).and_then(|()| fs::write(&path, &listing.commit));
        written.with_context(|| format!("cannot write '{}'", path.display()))?;
    }
    Ok(first.place.clone())
}

/// The server that is asked, with a slash at its end.
pub(super) fn endpoint() -> String {
    let given = ["MODEL_ENDPOINT", "HF_ENDPOINT"].into_iter().find_map(|name| {
        let value = std::env::var(name).ok()?;
        (!value.is_empty()).then_some(value)
    });
    let endpoint = given.unwrap_or_else(|| "https://huggingface.co/".to_owned());
    if endpoint.ends_with('/') { endpoint } else { endpoint + "/" }
}

/// The token, if it looks like one.
pub(super) fn token(remote: &Remote) -> Option<&str> {
    let token = remote.hf_token.as_deref()?;
    let right = (37..=256).contains(&token.len())
        && token.strip_prefix("hf_").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if !right {
        log::warn(format_args!(
            "--hf-token is not a Hugging Face token, expected hf_ followed by letters and digits: it is not sent"
        ));
    }
    Some(token).filter(|_| right)
}

/// Asks for the branches, then for the files of `main` or else the first.
fn list(client: &Client, repo: &str, folder: &Path, token: Option<&str>) -> anyhow::Result<Listing> {
    let endpoint = endpoint();
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Accept", "application/json")];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));

    let url = format!("{endpoint}api/models/{repo}/refs");
    let refs = client.json(&url, &headers)?;
    let branches: Vec<_> = refs["branches"].as_array().into_iter().flatten().filter_map(branch).collect();
    let chosen = branches.iter().find(|(name, _)| *name == "main").or(branches.first());
    let &(branch, commit) = chosen.with_context(|| format!("{url}: the answer names no branch"))?;

    let url = format!("{endpoint}api/models/{repo}/tree/{commit}?recursive=true");
    let tree = client.json(&url, &headers)?;
    let items = tree.as_array().with_context(|| format!("{url}: the answer is not a list of files"))?;
    let snapshot = folder.join("snapshots").join(commit);
    let files = items.iter().filter_map(|item| repo_file(item, &snapshot)).collect();
    Ok(Listing { commit: commit.to_owned(), branch: Some(branch.to_owned()), files })
}

/// Names and digests become paths: whatever could lead elsewhere is passed over.
fn branch(item: &Value) -> Option<(&str, &str)> {
    let (name, commit) = (item["name"].as_str()?, item["targetCommit"].as_str()?);
    (is_below(name) && is_hex(commit, &[40])).then_some((name, commit))
}

fn repo_file(item: &Value, snapshot: &Path) -> Option<RepoFile> {
    let name = item["path"].as_str().filter(|name| item["type"] == "file" && is_below(name))?;
    let oid = if item["lfs"].is_object() { &item["lfs"]["oid"] } else { &item["oid"] };
    let oid = oid.as_str().filter(|oid| !oid.is_empty()).map(str::to_ascii_lowercase);
    let right = oid.as_ref().is_none_or(|oid| is_hex(oid, &[40, 64]));
    right.then(|| RepoFile { name: name.to_owned(), place: snapshot.join(name), oid })
}

fn is_below(name: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(_));
    !name.is_empty() && !name.contains('\\') && Path::new(name).components().all(plain)
}

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `USER/MODEL` of letters, digits and `_`, with single `.` and `-` between them.
fn is_repo(repo: &str) -> bool {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    repo.len() <= 256 && repo.matches('/').count() == 1 && repo.split(['/', '.', '-']).all(word)
}

/// Returns the cached files of the commit of `main`, or of another branch.
fn cached(folder: &Path) -> Option<Listing> {
    let refs = folder.join("refs");
    let mut names: Vec<_> = fs::read_dir(&refs).ok()?.flatten().map(|entry| entry.file_name()).collect();
    names.sort_by_key(|name| (name != "main", name.clone()));
    let commits = names.iter().filter_map(|name| fs::read_to_string(refs.join(name)).ok());
    let commit = commits.map(|commit| commit.trim().to_owned()).find(|commit| is_hex(commit, &[40]))?;
    let snapshot = folder.join("snapshots").join(&commit);
    let mut files = Vec::new();
    let mut folders = vec![snapshot.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let place = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(place);
            } else if place.exists()
                && let Some(name) = place.strip_prefix(&snapshot).ok().and_then(Path::to_str)
            {
                files.push(RepoFile { name: name.replace('\\', "/"), place, oid: None });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Listing { commit, branch: None, files })
}

/// The model of the quantization `tag`; if none is named, of one of those preferred, or the first.
fn choose<'a>(files: &'a [RepoFile], tag: Option<&str>) -> Option<&'a RepoFile> {
    let mut models = files.iter().filter(|file| is_model(&file.name));
    let of_tag = |tag: &str| models.clone().find(|file| has_tag(&file.name, tag));
    match tag {
        Some(tag) => of_tag(tag),
        None => PREFERRED.into_iter().find_map(of_tag).or_else(|| models.next()),
    }
}

/// Returns true if a file is a model, or the first part of one.
fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let first = part_of(path).is_none_or(|(_, index, _)| index == 1);
    is_gguf(path) && first && !NO_MODELS.iter().any(|part| name.contains(part))
}

fn is_gguf(path: &str) -> bool {
    path.strip_suffix(".gguf").is_some()
}

/// Returns true if a path contains `tag`, in any case, with `.` or `-` after it.
fn has_tag(path: &str, tag: &str) -> bool {
    let (path, tag) = (path.to_ascii_lowercase(), tag.to_ascii_lowercase());
    path.match_indices(&tag).any(|(at, _)| path[at + tag.len()..].starts_with(['.', '-']))
}

/// All parts of the model whose first one is `first`.
fn parts_of<'a>(files: &'a [RepoFile], first: &'a RepoFile) -> anyhow::Result<Vec<&'a RepoFile>> {
    let Some((prefix, _, count)) = part_of(&first.name) else { return Ok(vec![first]) };
    let part = |index: u32| {
        let name = format!("{prefix}-{index:05}-of-{count:05}.gguf");
        let found = files.iter().find(|file| file.name == name);
        found.with_context(|| format!("'{name}', a part of the model, is missing"))
    };
    (1..=count).map(part).collect()
}

/// Downloads a blob and links the snapshot's file to it.
fn download(
    client: &Client,
    repo: &str,
    commit: &str,
    folder: &Path,
    file: &RepoFile,
    bearer: Option<&str>,
) -> anyhow::Result<()> {
    let url = format!("{}{repo}/resolve/{commit}/{}", endpoint(), encode(&file.name));
    let blob = file.oid.as_ref().map(|oid| folder.join("blobs").join(oid));
    let path = blob.as_deref().unwrap_or(&file.place);
    let sha256 = file.oid.as_deref().filter(|oid| oid.len() == 64);
    client.fetch(&Source { url: &url, path, bearer, sha256, unchanging: true })?;
    if file.place.exists() {
        return Ok(());
    }
    let linked = fs::create_dir_all(file.place.parent().unwrap_or(folder)).and_then(|()| link(path, file));
    linked.with_context(|| format!("cannot write '{}'", file.place.display()))
}

#[cfg(unix)]
fn link(blob: &Path, file: &RepoFile) -> std::io::Result<()> {
    // From snapshots/COMMIT/NAME, so that the cache can be moved.
    let mut target: PathBuf = Path::new(&file.name).components().map(|_| "..").collect();
    target.push("..");
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(target, &file.place).or_else(|_| fs::rename(blob, &file.place))
}

#[cfg(not(unix))]
fn link(blob: &Path, file: &RepoFile) -> std::io::Result<()> {
    fs::rename(blob, &file.place)
}

/// A path for a URL.
fn encode(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RepoFile> {
        names.iter().map(|&name| RepoFile { name: name.into(), place: name.into(), oid: None }).collect()
    }

    #[test]
    fn quantizations_are_chosen_as_llama_cpp_does() {
        let all = files(&[
            "README.md",
            "imatrix-Q4_K_M.gguf",
            "m-BF16.gguf",
            "m-Q4_K_M.gguf",
            "m-Q8_0-00002-of-00002.gguf",
            "m-Q8_0-00001-of-00002.gguf",
            "mmproj-m-Q2_K.gguf",
        ]);
        let name = |files: &[RepoFile], tag| choose(files, tag).map(|file| file.name.clone());
        assert_eq!(name(&all, None).unwrap(), "m-Q4_K_M.gguf");
        assert_eq!(name(&all, Some("q8_0")).unwrap(), "m-Q8_0-00001-of-00002.gguf");
        assert_eq!(name(&all, Some("Q2_K")), None);
        assert_eq!(name(&all, Some("Q4_K")), None);
        assert_eq!(name(&files(&["m-F16.gguf", "Q8_0/m-Q8_0.gguf"]), None).unwrap(), "Q8_0/m-Q8_0.gguf");
        assert_eq!(name(&files(&["m-F16.gguf", "m-F32.gguf"]), None).unwrap(), "m-F16.gguf");
        assert_eq!(parts_of(&all, &all[5]).unwrap(), [&all[5], &all[4]]);
        assert!(parts_of(&all[5..], &all[5]).unwrap_err().to_string().contains("m-Q8_0-00002-of-00002.gguf"));
    }

    #[test]
    fn names_that_leave_the_cache_folder_are_refused() {
        let item = |path: &str, oid: &str| serde_json::json!({"type": "file", "path": path, "lfs": {"oid": oid}});
        let oid = "a".repeat(64);
        assert!(repo_file(&item("a/m.gguf", &oid), Path::new("s")).is_some());
        for (path, oid) in [("../m", &*oid), ("/m", &oid), ("a/../../m", &oid), ("m", "../../x"), ("", &oid)] {
            assert_eq!(repo_file(&item(path, oid), Path::new("s")), None, "{path} {oid}");
        }
        for bad in ["model", "a/b/c", "../b", "a//b", "a/b-", "a/b..c", "a/b c", ""] {
            assert!(!is_repo(bad), "{bad}");
        }
        assert!(is_repo("ggml-org/GLM-4.7_x"));
    }
}
