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
        /// Answers requests for a range.
        ranges: bool,
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
                for stream in listener.incoming().take(100) {
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
        if let Some(first) = range(&request, &page).filter(|_| page.ranges) {
            if first >= length {
                return write!(
                    stream,
                    "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            let (last, rest) = (length - 1, length - first);
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{length}\r\n")?;
            write!(stream, "Content-Length: {rest}\r\n{etag}Connection: close\r\n\r\n")?;
            return stream.write_all(&page.body[first..]);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{etag}Connection: close\r\n\r\n")?;
        stream.write_all(&page.body[..if page.cut { length / 2 } else { length }])
    }

    /// Where a range that is asked for begins, unless it is asked for of another version.
    fn range(request: &str, page: &Page) -> Option<usize> {
        let header = |name: &str| {
            let line = request.lines().find(|line| line.to_lowercase().starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        let first = header("range:")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap();
        header("if-range:").is_none_or(|etag| page.etag == Some(etag.as_str())).then_some(first)
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
        fails(&bench, &server, &format!("{url} --offline"), &["cache/m.gguf' does not exist", "--offline"]);
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
    fn a_url_is_downloaded_to_the_path_of_the_model() {
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
    fn a_failed_download_leaves_no_file() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let address = server.address.clone();
        std::fs::create_dir(bench.path("cache")).unwrap();
        fails(&bench, &server, &format!("-mu {address}/m.gguf"), &["/m.gguf: HTTP status 404 Not Found"]);
        // Without an ETag or with a weak one there is no telling whether the rest will be of the same file.
        for etag in [None, Some("W/\"1\"")] {
            server.put("/m.gguf", Page { cut: true, ..llama(etag) });
            fails(&bench, &server, &format!("-mu {address}/m.gguf"), &["/m.gguf: broke off after ", " bytes"]);
        }
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let says = ["/m.gguf: cannot download: ", "refused"];
        fails(&bench, &server, &format!("-mu http://{unused}/m.gguf"), &says);
        fails(&bench, &server, "-mu ftp://127.0.0.1/m.gguf", &["begins with http:// or https://"]);
        fails(&bench, &server, &format!("-mu {address}/"), &["names no file"]);
        fails(&bench, &server, "-dr model --offline", &["ai_model_latest.gguf' does not exist"]);
        // What is wrong elsewhere is told first.
        server.asked();
        fails(&bench, &server, &format!("-mu {address}/m.gguf -ub 0"), &["--ubatch-size must be above 0"]);
        assert!(server.asked().is_empty());
    }

    /// The requests' headers of that name since the last call.
    fn headers(server: &Server, name: &str) -> Vec<String> {
        let requests = std::mem::take(&mut *server.requests.lock().unwrap());
        let lines = requests.iter().flat_map(|request| request.lines());
        let values =
            lines.filter_map(|line| line.to_lowercase().strip_prefix(name).map(|value| value.trim().to_owned()));
        values.collect()
    }

    #[test]
    fn an_interrupted_download_continues() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let url = format!("-mu {}/m.gguf", server.address);
        let (model, half) = (support::build("llama"), support::build("llama").len() / 2);
        let left = ["cache/.m.gguf.download", "cache/.m.gguf.download.note"];
        let cut = |etag| Page { cut: true, ranges: true, ..llama(Some(etag)) };
        let break_off = |etag| {
            server.put("/m.gguf", cut(etag));
            let ran = with(&bench, &server, &url);
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains(&format!("broke off after {half} of {} bytes", model.len())), "{}", ran.stderr);
            assert!(ran.stderr.contains("hint: the same command resumes the download"), "{}", ran.stderr);
            assert!(left.iter().all(|file| bench.path(file).exists()) && !bench.path("cache/m.gguf").exists());
            headers(&server, "range:");
        };
        let start_over = |bench: &Bench| std::fs::remove_dir_all(bench.path("cache")).unwrap();
        let whole = |bench: &Bench| {
            assert!(bench.read("cache/m.gguf") == model);
            assert!(left.iter().all(|file| !bench.path(file).exists()), "nothing is left beside it");
            start_over(bench);
        };
        // The same version: the rest alone is asked for.
        break_off("\"1\"");
        server.put("/m.gguf", Page { ranges: true, ..llama(Some("\"1\"")) });
        let ran = works(&bench, &server, &url);
        assert!(ran.stderr.contains(&format!("from byte {half} on")), "{}", ran.stderr);
        assert_eq!(headers(&server, "range:"), [format!("bytes={half}-")]);
        whole(&bench);
        // A kill leaves more than was noted, and perhaps garbage: what was noted counts.
        break_off("\"1\"");
        let mut partial = std::fs::OpenOptions::new().append(true).open(bench.path(left[0])).unwrap();
        partial.write_all(b"not noted").unwrap();
        server.put("/m.gguf", Page { ranges: true, ..llama(Some("\"1\"")) });
        works(&bench, &server, &url);
        whole(&bench);
        // Another version, a server without ranges, a file that has become shorter: all of it is fetched.
        let other = Page { ranges: true, ..llama(Some("\"2\"")) };
        for page in [other.clone(), Page { ranges: false, ..other.clone() }, Page { etag: None, ..other }] {
            break_off("\"1\"");
            server.put("/m.gguf", page);
            works(&bench, &server, &url);
            assert!(headers(&server, "if-range:").contains(&"\"1\"".to_owned()));
            whole(&bench);
        }
        break_off("\"1\"");
        std::fs::write(bench.path(left[0]), vec![0; 2 * model.len()]).unwrap();
        std::fs::write(bench.path(left[1]), format!("{}\n\"1\"\n", 2 * model.len())).unwrap();
        server.put("/m.gguf", Page { ranges: true, ..llama(Some("\"1\"")) });
        works(&bench, &server, &url);
        whole(&bench);
    }

    #[test]
    fn an_interrupted_blob_is_checked_by_its_digest() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let model = support::build("llama");
        let digest = format!("{:x}", sha2::Sha256::digest(&model));
        server.repository("user/model", &["m-Q4_K_M.gguf"], Some(&digest));
        let path = format!("/user/model/resolve/{COMMIT}/m-Q4_K_M.gguf");
        let blob = format!("cache/models--user--model/blobs/{digest}");
        let partial = format!("cache/models--user--model/blobs/.{digest}.download");
        for damaged in [false, true] {
            server.put(&path, Page { cut: true, ranges: true, ..llama(None) });
            assert_eq!(with(&bench, &server, "-hf user/model").code, Some(1));
            headers(&server, "range:");
            server.put(&path, Page { ranges: true, ..llama(None) });
            if damaged {
                let mut bytes = bench.read(&partial);
                bytes[7] ^= 1;
                bench.write(&partial, &bytes);
                let ran = with(&bench, &server, "-hf user/model");
                assert_eq!((ran.code, ran.stderr.contains("its SHA-256 should be")), (Some(1), true), "{}", ran.stderr);
                assert!(!bench.path(&partial).exists(), "the next try begins anew");
            }
            works(&bench, &server, "-hf user/model");
            let ranges = headers(&server, "range:");
            assert_eq!(ranges, [format!("bytes={}-", model.len() / 2)]);
            assert!(bench.read(&blob) == model && !bench.path(&partial).exists());
            std::fs::remove_dir_all(bench.path("cache")).unwrap();
        }
    }

    /// A process that is killed in the midst leaves its part; the next on the same file waits for nobody.
    #[cfg(unix)]
    #[test]
    fn leftovers_of_a_killed_download_do_no_harm() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        std::fs::create_dir(bench.path("cache")).unwrap();
        bench.write("cache/.m.gguf.download", b"what came before the kill");
        server.put("/m.gguf", llama(None));
        works(&bench, &server, &format!("-mu {}/m.gguf", server.address));
        assert_eq!(bench.read("cache/m.gguf"), support::build("llama"));
        assert!(!bench.path("cache/.m.gguf.download").exists());
    }

    #[test]
    fn access_tokens_are_sent_to_their_server_only() {
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
        assert!(
            ran.stderr.contains("--hf-token is not a Hugging Face token") && !ran.stderr.contains("secret"),
            "{}",
            ran.stderr
        );
    }

    #[test]
    fn repositories_give_the_requested_quantization() {
        let (bench, server) = (Bench::new(&[]), Server::start());
        let names = ["m-BF16.gguf", "m-Q4_K_M.gguf", "Q8_0/m-Q8_0.gguf", "mmproj-Q4_K_M.gguf"];
        server.repository("user/model", &names, None);
        let snapshot = format!("cache/models--user--model/snapshots/{COMMIT}");
        fails(&bench, &server, "-hf user/model --offline", &["no file of user/model is in", "--offline"]);
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
    fn blobs_with_another_digest_are_refused() {
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
    fn all_parts_of_a_split_model_are_downloaded() {
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
