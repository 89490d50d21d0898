//! Models in Docker Hub's registry: a token, a manifest, and in it the digest of the GGUF file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::cache::{cache_folder, ensure_cached};
use super::http::{Client, Source};

/// Servers: who lets in, and who has the files.
struct Hub<'a> {
    auth: &'a str,
    registry: &'a str,
}

const DOCKER_HUB: Hub = Hub { auth: "https://auth.docker.io", registry: "https://registry-1.docker.io" };
const MANIFESTS: &str =
    "application/vnd.docker.distribution.manifest.v2+json,application/vnd.oci.image.manifest.v1+json";

/// `--docker-repo`.
pub(super) fn model(name: &str, offline: bool) -> anyhow::Result<PathBuf> {
    let (repo, tag) = repo_and_tag(name)?;
    let path = cache_folder()?.join(format!("{}_{tag}.gguf", repo.replace('/', "_")));
    if offline {
        ensure_cached(&path)?;
        return Ok(path);
    }
    download(&DOCKER_HUB, &repo, &tag, &path)?;
    Ok(path)
}

fn download(hub: &Hub, repo: &str, tag: &str, path: &Path) -> anyhow::Result<()> {
    let Hub { auth, registry } = hub;
    let client = Client::new();
    let url = format!("{auth}/token?service=registry.docker.io&scope=repository:{repo}:pull");
    let answer = client.json(&url, &[])?;
    let token = answer["token"].as_str().with_context(|| format!("{url}: the answer has no token"))?;
    let bearer = format!("Bearer {token}");
    let url = format!("{registry}/v2/{repo}/manifests/{tag}");
    let manifest = client.json(&url, &[("Authorization", &bearer), ("Accept", MANIFESTS)])?;
    let digest = gguf_digest(&manifest).with_context(|| format!("{url}: the manifest has no GGUF layer"))?;
    let url = format!("{registry}/v2/{repo}/blobs/sha256:{digest}");
    client.fetch(&Source { url: &url, path, bearer: Some(token), sha256: Some(&digest), unchanging: false })
}

/// `[REPO/]MODEL[:TAG]`: of ai/, and the latest, if nothing else is said.
fn repo_and_tag(name: &str) -> anyhow::Result<(String, String)> {
    let (repo, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let repo = if repo.contains('/') { repo.to_owned() } else { format!("ai/{repo}") };
    let word = |text: &str| {
        let right = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        text.bytes().all(right) && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
    };
    ensure!(repo.split('/').all(word) && word(tag), "invalid repository, expected [REPO/]MODEL[:TAG]");
    Ok((repo, tag.to_owned()))
}

/// The SHA-256 of the first GGUF layer, in lower case.
fn gguf_digest(manifest: &Value) -> Option<String> {
    let is_gguf = |layer: &&Value| layer["mediaType"].as_str().is_some_and(|kind| kind.contains("gguf"));
    let layer = manifest["layers"].as_array()?.iter().find(is_gguf)?;
    let digest = layer["digest"].as_str()?.strip_prefix("sha256:")?;
    let right = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| digest.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn names_have_defaults() {
        let parsed = |name| repo_and_tag(name).unwrap();
        assert_eq!(parsed("gemma3"), ("ai/gemma3".into(), "latest".into()));
        assert_eq!(parsed("me/smollm2:135M-Q4_0"), ("me/smollm2".into(), "135M-Q4_0".into()));
        for bad in ["", "a b", "../x", "a/", "a:", "a:b/c", "a?b"] {
            assert!(repo_and_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_a_manifest_and_the_blob_it_names() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let manifest = format!(r#"{{"layers": [{{"mediaType": "x.gguf.v3", "digest": "sha256:{digest}"}}]}}"#);
        let server = std::thread::spawn(move || {
            [r#"{"token": "t"}"#, &manifest, "abc"].map(|body| {
                let mut stream = listener.accept().unwrap().0;
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let request = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").to_lowercase();
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                stream.write_all((head + body).as_bytes()).unwrap();
                request
            })
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ai_m_latest.gguf");
        download(&Hub { auth: &address, registry: &address }, "ai/m", "latest", &path).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"abc");
        let [token, manifest, blob] = server.join().unwrap();
        assert!(token.starts_with("get /token?service=registry.docker.io&scope=repository:ai/m:pull "), "{token}");
        assert!(manifest.starts_with("get /v2/ai/m/manifests/latest ") && manifest.contains("bearer t"), "{manifest}");
        assert!(
            blob.starts_with(&format!("get /v2/ai/m/blobs/sha256:{digest} ")) && blob.contains("bearer t"),
            "{blob}"
        );
    }

    #[test]
    fn manifests_name_the_gguf_layer() {
        let digest = "AB".repeat(32);
        let manifest = serde_json::json!({"layers": [
            {"mediaType": "application/vnd.docker.ai.license", "digest": format!("sha256:{}", "0".repeat(64))},
            {"mediaType": "application/vnd.docker.ai.gguf.v3", "digest": format!("sha256:{digest}")},
        ]});
        assert_eq!(gguf_digest(&manifest), Some("ab".repeat(32)));
        let wrong = serde_json::json!({"layers": [{"mediaType": "x.gguf", "digest": "sha256:../x"}]});
        assert_eq!(gguf_digest(&wrong), None);
    }
}
