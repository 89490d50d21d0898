//! Models from a server: one of ours on this machine, never another.

#[cfg(not(feature = "download"))]
#[test]
fn downloads_that_are_not_built_in_are_refused() {
    let bench = super::Bench::new(&["llama"]);
    for args in ["-hf user/model", "-mu http://127.0.0.1:1/m.gguf", "-dr model"] {
        let says = ["built without downloads: build with --features download, or name a file with --model"];
        bench.fails(&format!("-m llama.gguf -f calibration.txt {args}"), &says);
    }
}

#[cfg(feature = "download")]
mod with_server {
    use std::collections::HashMap;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use sha2::Digest as _;

    use crate::program::{Bench, Ran, run};
    use crate::support;

    const RUN: &str = "-f calibration.txt -c 64 -b 128 --chunks 2 -o out.gguf";
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// What a path gives.
    #[derive(Clone, Default)]
    struct Page {
        body: Vec<u8>,
        etag: Option<&'static str>,
        /// Hangs up after half of the body.
        cut: bool,
    }

    /// A server of pages, for as long as the test runs.
    struct Server {
        address: String,
        pages: Arc<Mutex<HashMap<String, Page>>>,
        /// First line and headers of all requests.
        requests: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let server = Self { address, pages: Arc::default(), requests: Arc::default() };
            let (pages, requests) = (Arc::clone(&server.pages), Arc::clone(&server.requests));
            std::thread::spawn(move || {
                for stream in listener.incoming().take(50) {
                    // A client that has seen enough hangs up: no fault of the test.
                    let _ = answer(stream.unwrap(), &pages, &requests);
                }
            });
            server
        }

        fn put(&self, path: &str, page: Page) {
            self.pages.lock().unwrap().insert(path.to_owned(), page);
        }

        fn json(&self, path: &str, text: String) {
            self.put(path, Page { body: text.into_bytes(), ..Page::default() });
        }

        /// Requests since the last call, by their paths.
        fn asked(&self) -> Vec<String> {
            let requests = std::mem::take(&mut *self.requests.lock().unwrap());
            requests.iter().map(|text| text.split(' ').nth(1).unwrap().to_owned()).collect()
        }

        /// A repository of models that all are the llama one, with its digest or another.
        fn repository(&self, repo: &str, names: &[&str], sha256: Option<&str>) {
            let refs = format!(r#"{{"branches": [{{"name": "main", "targetCommit": "{COMMIT}"}}]}}"#);
            self.json(&format!("/api/models/{repo}/refs"), refs);
            let item = |name: &&str| {
                let lfs = sha256.map(|oid| format!(r#", "lfs": {{"oid": "{oid}"}}"#)).unwrap_or_default();
                format!(r#"{{"type": "file", "path": "{name}"{lfs}}}"#)
            };
            let tree = names.iter().map(item).collect::<Vec<_>>().join(", ");
            self.json(&format!("/api/models/{repo}/tree/{COMMIT}?recursive=true"), format!("[{tree}]"));
            for name in names {
                let page = Page { body: support::build("llama"), ..Page::default() };
                self.put(&format!("/{repo}/resolve/{COMMIT}/{name}"), page);
            }
        }
    }

    fn answer(
        mut stream: TcpStream,
        pages: &Mutex<HashMap<String, Page>>,
        requests: &Mutex<Vec<String>>,
    ) -> std::io::Result<()> {
        let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
        let request = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        requests.lock().unwrap().push(request.clone());
        let Some(page) = pages.lock().unwrap().get(&path).cloned() else {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let etag = page.etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
        let known = page.etag.is_some_and(|etag| request.to_lowercase().contains(&format!("if-none-match: {etag}")));
        if known {
            return write!(stream, "HTTP/1.1 304 Not Modified\r\n{etag}Connection: close\r\n\r\n");
        }
        let length = page.body.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{etag}Connection: close\r\n\r\n")?;
        stream.write_all(&page.body[..if page.cut { length / 2 } else { length }])
    }

    /// Runs with the cache in `cache` and the server in Hugging Face's place.
    fn with(bench: &Bench, server: &Server, args: &str) -> Ran {
        let mut command = bench.command(&format!("{RUN} {args}"));
        for name in ["http_proxy", "https_proxy", "all_proxy", "HF_TOKEN", "HF_ENDPOINT"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command.env("LLAMA_CACHE", bench.path("cache")).env("MODEL_ENDPOINT", &server.address);
        run(&mut command)
    }

    fn works(bench: &Bench, server: &Server, args: &str) -> Ran {
        let ran = with(bench, server, args);
        assert_eq!(ran.code, Some(0), "{args}\n{}", ran.stderr);
        assert!(bench.path("out.gguf").exists());
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
        ran
    }

    /// Fails with a message, exit code 1 and no file more than before.
    fn fails(bench: &Bench, server: &Server, args: &str, says: &[&str]) {
        let before = files(bench);
        let ran = with(bench, server, args);
        assert_eq!(ran.code, Some(1), "{args}\n{}", ran.stderr);
        for part in says {
            assert!(ran.stderr.contains(part), "{args}: no '{part}' in\n{}", ran.stderr);
        }
        assert_eq!(files(bench), before, "{args}");
    }

    /// All files below the folder.
    fn files(bench: &Bench) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![bench.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let list = if entry.file_type().unwrap().is_dir() { &mut folders } else { &mut files };
                list.push(entry.path());
            }
        }
        files.sort();
        files
    }

    fn llama(etag: Option<&'static str>) -> Page {
        Page { body: support::build("llama"), etag, ..Page::default() }
    }

    #[test]
    fn urls_are_downloaded_once() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        server.put("/a/m.gguf?x=1", llama(Some("\"1\"")));
        let url = format!("-mu {}/a/m.gguf?x=1", server.address);
        fails(&bench, &server, &format!("{url} --offline"), &["cache/m.gguf' is not there", "--offline"]);
        assert!(server.asked().is_empty());
        let ran = works(&bench, &server, &url);
        assert!(ran.stderr.contains("downloading http://127.0.0.1:"), "{}", ran.stderr);
        assert_eq!(bench.read("cache/m.gguf"), support::build("llama"));
        assert_eq!(bench.read("cache/m.gguf.etag"), b"\"1\"");
        let ran = works(&bench, &server, &url);
        assert!(ran.stderr.contains("cache/m.gguf', which was downloaded before"), "{}", ran.stderr);
        assert_eq!(server.asked().len(), 2);
        works(&bench, &server, &format!("{url} --offline"));
        assert!(server.asked().is_empty());

        // Another version is downloaded in its place; without a server the old one serves.
        let body = support::build("qwen2");
        server.put("/a/m.gguf?x=1", Page { body: body.clone(), etag: Some("\"2\""), ..Page::default() });
        works(&bench, &server, &url);
        assert_eq!(bench.read("cache/m.gguf"), body);
        server.pages.lock().unwrap().clear();
        let ran = works(&bench, &server, &url);
        assert!(ran.stderr.contains("404 Not Found; using '"), "{}", ran.stderr);
    }

    #[test]
    fn urls_go_where_the_model_is_said_to_be() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        server.put("/m.gguf", llama(None));
        let args = format!("-mu {}/m.gguf -m sub/mine.gguf", server.address);
        works(&bench, &server, &args);
        assert_eq!(bench.read("sub/mine.gguf"), support::build("llama"));
        assert!(!bench.path("cache").exists());
        // No ETag: the size tells.
        let ran = works(&bench, &server, &args);
        assert!(ran.stderr.contains("which was downloaded before"), "{}", ran.stderr);
        bench.write("sub/mine.gguf", b"another");
        works(&bench, &server, &args);
    }

    #[test]
    fn what_cannot_be_downloaded_leaves_nothing() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let address = server.address.clone();
        std::fs::create_dir(bench.path("cache")).unwrap();
        fails(&bench, &server, &format!("-mu {address}/m.gguf"), &["/m.gguf: HTTP status 404 Not Found"]);
        server.put("/m.gguf", Page { cut: true, ..llama(Some("\"1\"")) });
        fails(&bench, &server, &format!("-mu {address}/m.gguf"), &["/m.gguf: broke off after ", " bytes"]);
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let says = ["/m.gguf: cannot download: ", "refused"];
        fails(&bench, &server, &format!("-mu http://{unused}/m.gguf"), &says);
        fails(&bench, &server, "-mu ftp://127.0.0.1/m.gguf", &["begins with http:// or https://"]);
        fails(&bench, &server, &format!("-mu {address}/"), &["names no file"]);
        fails(&bench, &server, "-dr model --offline", &["ai_model_latest.gguf' is not there"]);
        // What is wrong elsewhere is told first.
        server.asked();
        fails(&bench, &server, &format!("-mu {address}/m.gguf -ub 0"), &["--ubatch-size must be above 0"]);
        assert!(server.asked().is_empty());
    }

    #[test]
    fn tokens_go_to_their_server_alone() {
        let (bench, server, other) = (Bench::new(&[]), Server::start(), Server::start());
        let token = format!("hf_{}", "x".repeat(34));
        for server in [&server, &other] {
            server.put("/m.gguf", llama(None));
        }
        works(&bench, &server, &format!("-hft {token} -m 1.gguf -mu {}/m.gguf", server.address));
        works(&bench, &server, &format!("-hft {token} -m 2.gguf -mu {}/m.gguf", other.address));
        let sent = |server: &Server| server.requests.lock().unwrap().iter().any(|request| request.contains(&token));
        assert!(sent(&server) && !sent(&other));
        let ran = works(&bench, &server, &format!("-hft secret -m 3.gguf -mu {}/m.gguf", server.address));
        assert!(ran.stderr.contains("--hf-token is no token") && !ran.stderr.contains("secret"), "{}", ran.stderr);
    }

    #[test]
    fn repositories_give_the_quantization_asked_for() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let names = ["m-BF16.gguf", "m-Q4_K_M.gguf", "Q8_0/m-Q8_0.gguf", "mmproj-Q4_K_M.gguf"];
        server.repository("user/model", &names, None);
        let snapshot = format!("cache/models--user--model/snapshots/{COMMIT}");
        fails(&bench, &server, "-hf user/model --offline", &["nothing of user/model is in", "--offline"]);
        assert!(server.asked().is_empty());
        for (args, file) in [
            ("-hf user/model", "m-Q4_K_M.gguf"),
            ("-hf user/model:q8_0", "Q8_0/m-Q8_0.gguf"),
            ("-hf user/model -hff m-BF16.gguf", "m-BF16.gguf"),
        ] {
            works(&bench, &server, args);
            assert_eq!(server.asked().last().unwrap(), &format!("/user/model/resolve/{COMMIT}/{file}"));
            assert_eq!(bench.read(&format!("{snapshot}/{file}")), support::build("llama"));
            works(&bench, &server, args);
            assert_eq!(server.asked().len(), 2, "the branches and the files alone");
            works(&bench, &server, &format!("{args} --offline"));
            assert!(server.asked().is_empty());
        }
        assert_eq!(bench.read("cache/models--user--model/refs/main"), COMMIT.as_bytes());
        fails(&bench, &server, "-hf user/model:Q2_K", &["no Q2_K in the repository", "m-BF16.gguf, m-Q4_K_M.gguf"]);
        fails(&bench, &server, "-hf user/model -hff x.gguf", &["no x.gguf in the repository"]);
        fails(&bench, &server, "-hf model", &["expected USER/MODEL[:QUANT]"]);
        fails(&bench, &server, "-hf user/none", &["/api/models/user/none/refs: HTTP status 404"]);
        // Without a server the cache serves.
        server.pages.lock().unwrap().clear();
        let ran = works(&bench, &server, "-hf user/model");
        assert!(ran.stderr.contains("using what was downloaded before"), "{}", ran.stderr);
    }

    #[test]
    fn blobs_have_the_digest_that_was_promised() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let model = support::build("llama");
        let digest = format!("{:x}", sha2::Sha256::digest(&model));
        server.repository("user/model", &["m-Q4_K_M.gguf"], Some(&"0".repeat(64)));
        fails(&bench, &server, "-hf user/model", &["its SHA-256 should be 000000000000", &digest]);
        server.repository("user/model", &["m-Q4_K_M.gguf"], Some(&digest));
        works(&bench, &server, "-hf user/model");
        assert_eq!(bench.read(&format!("cache/models--user--model/blobs/{digest}")), model);
        let file = format!("cache/models--user--model/snapshots/{COMMIT}/m-Q4_K_M.gguf");
        assert_eq!(bench.read(&file), model);
        #[cfg(unix)]
        assert!(bench.path(&file).is_symlink());
        works(&bench, &server, "-hf user/model:q4_k_m --offline");
    }

    #[test]
    fn parts_come_all() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let names = ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"];
        server.repository("user/model", &names, None);
        // They are no real parts, so how the run ends does not matter: both are there.
        with(&bench, &server, "-hf user/model");
        assert_eq!(server.asked().len(), 4);
        let snapshot = format!("cache/models--user--model/snapshots/{COMMIT}");
        for name in names {
            assert!(bench.path(&format!("{snapshot}/{name}")).exists());
            server.put(&format!("/{name}"), llama(None));
        }
        with(&bench, &server, &format!("-mu {}/{}", server.address, names[0]));
        assert_eq!(server.asked().len(), 2);
        std::fs::remove_file(bench.path(&format!("{snapshot}/{}", names[1]))).unwrap();
        fails(&bench, &server, "-hf user/model --offline", &[names[1], "is missing"]);
    }
}
