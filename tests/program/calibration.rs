//! Calibration data: several files, folders, compressed ones, conversations, documents, samples, previews.

use llama_imatrix::gguf::{File, Writer};
use llama_imatrix::imatrix::{Entry, Imatrix, Loaded};

use super::*;

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>\n' }}{% endfor %}";

/// `model` with a chat template.
fn with_template(model: &str, template: &str) -> Vec<u8> {
    let bytes = support::build(model);
    let file = File::from_bytes(bytes).unwrap();
    let mut writer = Writer::new();
    for (key, value) in file.keys().filter(|(key, _)| *key != "general.alignment") {
        writer.set(key, value.clone());
    }
    writer.set("tokenizer.chat_template", template);
    for tensor in file.tensors() {
        let rank = tensor.shape.iter().rposition(|&n| n > 1).map_or(1, |last| last + 1);
        writer.tensor(tensor.name, tensor.dtype, &tensor.shape[..rank], tensor.data.to_vec()).unwrap();
    }
    let mut out = Vec::new();
    writer.write_to(&mut out).unwrap();
    out
}

/// Texts of so many words each, as `docs/NN.txt`.
fn documents(bench: &Bench, words: &[usize]) {
    std::fs::create_dir_all(bench.path("docs")).unwrap();
    for (i, &n) in words.iter().enumerate() {
        bench.write(&format!("docs/{i:02}.txt"), format!("{}\n", support::text(n, i as u64 + 1)).as_bytes());
    }
}

const WORDS: [usize; 9] = [3, 40, 11, 150, 25, 1, 7, 90, 16];

fn load(bench: &Bench, name: &str) -> Loaded {
    Imatrix::load(bench.path(name)).unwrap()
}

/// A text without a line end at its end, which a file's text would lose.
fn text(words: usize, seed: u64) -> String {
    support::text(words, seed).trim_end().to_owned()
}

/// The layer of a weight.
fn layer(name: &str) -> u32 {
    name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok()).unwrap_or(u32::MAX)
}

/// Equal counts, and sums that differ by rounding alone. If a router's choice is close, rounding decides that too: then an
/// expert's counts differ, and so do the inputs of all later layers.
fn assert_close(a: &Loaded, b: &Loaded, what: &str) {
    assert_eq!(a.entries.keys().collect::<Vec<_>>(), b.entries.keys().collect::<Vec<_>>(), "{what}");
    let routed_otherwise = a.entries.iter().filter(|(name, entry)| entry.counts != b.entries[*name].counts);
    let last_equal = routed_otherwise.map(|(name, _)| layer(name)).min().unwrap_or(u32::MAX);
    assert!(last_equal > 0, "{what}: the first layer's experts already differ");
    for (name, a) in &a.entries {
        let b = &b.entries[name];
        let rows = |entry: &Entry| entry.counts.iter().sum::<i64>();
        assert_eq!(rows(a), rows(b), "{what}: {name}");
        if a.counts != b.counts {
            assert!(name.contains("_exps."), "{what}: {name}");
            continue;
        }
        if layer(name) > last_equal {
            continue;
        }
        let far = |(x, y): (&f32, &f32)| (x - y).abs() > 2e-3 * x.abs().max(y.abs()) + 1e-6;
        assert!(!a.sum2.iter().zip(&b.sum2).any(far), "{what}: {name}");
    }
}

#[test]
fn several_files_equal_their_concatenation() {
    let bench = Bench::new(&["llama"]);
    let text = support::text(1500, 3);
    let (first, second) = text.split_at(text.find(' ').unwrap() + 2000);
    bench.write("all.txt", format!("{first}\n{second}\n").as_bytes());
    bench.write("one.txt", format!("{first}\n").as_bytes());
    bench.write("two.txt", second.as_bytes());
    std::fs::create_dir_all(bench.path("folder/.hidden")).unwrap();
    bench.write("folder/1.txt", format!("{first}\n").as_bytes());
    bench.write("folder/2.txt", second.as_bytes());
    bench.write("folder/.hidden/3.txt", b"not this one");
    let run = |files: &str| {
        let ran = bench.ok(&format!("-m llama.gguf -c 64 -b 64 {files} -o out.gguf"));
        (load(&bench, "out.gguf"), estimate(&ran).to_owned(), ran.stderr)
    };
    let (whole, ppl, _) = run("-f all.txt");
    for (files, names) in [
        ("-f one.txt -f two.txt", vec!["one.txt", "two.txt"]),
        ("-f folder", vec!["folder/1.txt", "folder/2.txt"]),
        ("-p unused -bf one.txt --file two.txt", vec!["one.txt", "two.txt"]),
    ] {
        let (imatrix, found, stderr) = run(files);
        assert!(imatrix.entries == whole.entries && found == ppl, "{files}");
        assert_eq!(imatrix.datasets, names, "{files}");
        assert!(!stderr.contains("DEPRECATED"), "{stderr}");
    }
    // A prompt takes their place, as with llama.cpp's tool, and the last file's name stays.
    bench.ok("-m llama.gguf -c 16 -b 16 -f one.txt -f two.txt -p a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t -o out.gguf");
    assert_eq!(load(&bench, "out.gguf").datasets, ["two.txt"]);
}

#[test]
fn compressed_texts_give_the_same_matrix() {
    use std::io::Write as _;
    let bench = Bench::new(&["llama"]);
    let text = bench.read("calibration.txt");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    bench.write("text.txt.gz", &gzip);
    let zstd = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
    bench.write("text.txt.zst", &zstd);
    let run = |file: &str| {
        bench.ok(&format!("-m llama.gguf -c 64 -b 64 --chunks 5 -f {file} -o out.gguf"));
        load(&bench, "out.gguf").entries
    };
    let plain = run("calibration.txt");
    assert!(run("text.txt.gz") == plain && run("text.txt.zst") == plain);
    // As llama.cpp's tool takes it.
    bench.ok("-m llama.gguf -c 64 -b 64 --chunks 2 -bf text.txt.gz -o out.gguf");
    assert!(load(&bench, "out.gguf").entries != plain);
    bench.write("cut.gz", &gzip[..gzip.len() / 2]);
    bench.write("no.zst", &text);
    bench.fails("-m llama.gguf -f cut.gz", &["error: cannot decompress 'cut.gz': "]);
    bench.fails("-m llama.gguf -f no.zst", &["error: cannot decompress 'no.zst': "]);
}

#[test]
fn conversations_go_through_the_models_own_template() {
    let bench = Bench::new(&[]);
    bench.write("qwen2.gguf", &with_template("qwen2", CHATML));
    let (question, answer) = (text(20, 1), text(40, 2));
    let message = |role: &str, text: &str| {
        format!("{{\"role\":\"{role}\",\"content\":{}}}", serde_json::to_string(text).unwrap())
    };
    let line = format!("{{\"messages\":[{},{}]}}\n", message("user", &question), message("assistant", &answer));
    bench.write("chat.jsonl", line.as_bytes());
    let share_gpt = line.replace("messages", "conversations").replace("role", "from").replace("content", "value");
    bench.write(
        "share.jsonl",
        share_gpt.replace("\"user\"", "\"human\"").replace("\"assistant\"", "\"gpt\"").as_bytes(),
    );
    bench.write(
        "text.txt",
        format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n\n").as_bytes(),
    );
    let run = |args: &str| {
        bench.ok(&format!("-m qwen2.gguf --documents -c 64 -b 64 {args} -o out.gguf"));
        load(&bench, "out.gguf").entries
    };
    let text = run("-f text.txt --parse-special");
    assert!(run("-f chat.jsonl") == text, "special tokens are read, also without --parse-special");
    assert!(run("-f share.jsonl") == text);
    assert!(run("-f text.txt") != text);

    bench.write("mine.jinja", b"{{ messages[1].content }}");
    bench.write("answer.txt", answer.as_bytes());
    assert!(run("-f chat.jsonl --chat-template-file mine.jinja") == run("-f answer.txt --parse-special"));
    bench.write("date.jinja", b"{{ strftime_now('%Y-%m-%d') }}, {{ messages[1].content }}");
    bench.write("date.txt", format!("2025-03-01, {answer}").as_bytes());
    assert!(
        run("-f chat.jsonl --chat-template-file date.jinja --chat-date 2025-03-01")
            == run("-f date.txt --parse-special")
    );
}

#[test]
fn a_template_that_writes_bos_has_it_once() {
    let bench = Bench::new(&["llama"]);
    bench.write("bos.jinja", b"{{ bos_token }}{{ messages[0].content }}");
    bench.write("none.jinja", b"{{ messages[0].content }}");
    let text = text(60, 2);
    bench.write(
        "chat.jsonl",
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":{}}}]}}", serde_json::to_string(&text).unwrap())
            .as_bytes(),
    );
    bench.write("text.txt", text.as_bytes());
    let run = |args: &str| {
        let ran = bench.ok(&format!("-m llama.gguf --documents -c 64 -b 64 {args} -o out.gguf"));
        assert!(!ran.stderr.contains("BOS"), "{}", ran.stderr);
        load(&bench, "out.gguf").entries
    };
    let none = run("-f chat.jsonl --chat-template-file none.jinja");
    let text = run("-f text.txt --parse-special");
    // A vocabulary of this kind puts a space before a text, but not behind a special token.
    let bos = run("-f chat.jsonl --chat-template-file bos.jinja");
    assert!(none == text);
    let rows = |entries: &std::collections::BTreeMap<String, Entry>| entries["blk.0.attn_q.weight"].counts[0];
    assert!((rows(&text) - rows(&bos)).abs() <= 1, "{} {}", rows(&text), rows(&bos));
}

#[test]
fn bad_conversations_are_named_by_file_and_line() {
    let bench = Bench::new(&["llama"]);
    bench.write("raise.jinja", b"{{ raise_exception('roles must alternate') }}");
    bench.write("broken.jinja", b"{% if %}");
    bench.write("chat.jsonl", b"\n{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}\n");
    bench.write("bad.jsonl", b"{\"text\":\"a\"}\n{\"prompt\":\"a\"}\n");
    bench.write("none.jsonl", b"{\"text\":\"a\"}\n{\"text\":\n");
    std::fs::create_dir(bench.path("empty")).unwrap();
    for (args, says) in [
        (
            "-f chat.jsonl",
            "error: chat.jsonl:2: a conversation needs a chat template: there is none in the model's file",
        ),
        (
            "-f chat.jsonl --chat-template-file raise.jinja",
            "error: chat.jsonl:2: the chat template fails: roles must alternate",
        ),
        ("-f chat.jsonl --chat-template-file broken.jinja", "error: 'broken.jinja': the chat template is not valid: "),
        ("-f chat.jsonl --chat-template-file no.jinja", "error: cannot read the chat template 'no.jinja'"),
        ("-f bad.jsonl", "error: bad.jsonl:2: found 'prompt'; expected 'messages' (objects with role and content"),
        (
            "-f chat.jsonl --chat-template dance",
            "error: --chat-template: llama.cpp has no template 'dance'\nhint: it has bailing, ",
        ),
        ("-f chat.jsonl --chat-template {%", "error: --chat-template: the chat template is not valid: "),
        (
            "-f chat.jsonl --chat-template chatml --chat-template-file raise.jinja",
            "cannot be combined with --chat-template-file",
        ),
        ("-f none.jsonl", "error: none.jsonl:2: no JSON (EOF while parsing a value"),
        ("-f empty", "error: the folder 'empty' holds no files"),
        ("-f calibration.txt -f missing.txt", "error: failed to open file 'missing.txt'"),
        ("-f calibration.txt --tokens 63 -c 64", "error: --tokens 63 is less than one chunk of 64 tokens"),
        ("-f calibration.txt --tokens 0", "expected a number from 1 on"),
        ("-f calibration.txt --documents --chunk 100000", "--chunk 100000 skips all "),
        ("-f calibration.txt --tokens-per-second 5", "error: --tokens-per-second requires --dry-run"),
        ("-f calibration.txt --chat-date today", "'today' is no date as in 2024-07-26"),
        ("--in-file x --dry-run", "error: failed to open file 'x'"),
        ("--dry-run", "error: --dry-run needs a text"),
    ] {
        bench.fails(&format!("-m llama.gguf {args}"), &[says]);
    }
}

#[test]
fn templates_of_llama_cpp_are_found_by_name() {
    let bench = Bench::new(&["llama"]);
    bench.write(
        "chat.jsonl",
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"hi there\"},{\"role\":\"assistant\",\"content\":\"ho\"}]}\n",
    );
    bench.write("alpaca.jsonl", b"{\"instruction\":\"hi there\",\"input\":\"\",\"output\":\"ho\"}\n");
    let chatml =
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}";
    bench.write("chatml.jinja", chatml.as_bytes());
    let run = |args: &[&str]| {
        let ran = run(bench.command("-m llama.gguf -c 64 -b 64 --documents -o out.gguf").args(args));
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        load(&bench, "out.gguf").entries
    };
    let named = run(&["-f", "chat.jsonl", "--chat-template", "chatml"]);
    assert!(named == run(&["-f", "chat.jsonl", "--chat-template-file", "chatml.jinja"]));
    assert!(named == run(&["-f", "chat.jsonl", "--chat-template", chatml]), "a template in the flag itself");
    assert!(named == run(&["-f", "alpaca.jsonl", "--chat-template", "chatml"]), "the same conversation");
    assert!(named != run(&["-f", "chat.jsonl", "--chat-template", "llama3"]));
}

#[test]
fn the_bundled_conversations_work_with_the_bundled_model() {
    let bench = Bench::new(&[]);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart");
    let path = |name: &str| folder.join(name).into_os_string();
    let run_with = |args: &[&str]| {
        let mut command = bench.command("--documents -o out.gguf -m");
        run(command.arg(path("quickstart.gguf")).arg("-f").arg(path("chats.jsonl")).args(args))
    };
    let ran = run_with(&["--dry-run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("14 documents"), "{}", ran.stdout);
    assert_eq!(run_with(&["--dry-run", "--chat-template", "chatml"]).code, Some(0));
}

#[test]
fn documents_share_no_context() {
    // A cache, windows of two sizes, experts, a matrix a head, a state, no memory at all.
    for model in ["llama", "gemma3", "qwen3moe", "deepseek2", "lfm2", "llada"] {
        let bench = Bench::new(&[model]);
        documents(&bench, &WORDS);
        let run = format!("-m {model}.gguf --documents -c 64 -b 256 -ub 256 --state-interval 0");
        let ran = bench.ok(&format!("{run} -f docs -o all.gguf"));
        let recurrent = model == "lfm2";
        assert_eq!(ran.stderr.contains(" and 1 sequences"), recurrent, "{}", ran.stderr);
        for i in 0..WORDS.len() {
            let before = if i > 0 { "--in-file one.gguf" } else { "" };
            bench.ok(&format!("{run} -f docs/{i:02}.txt {before} -o one.gguf"));
        }
        let (all, one) = (load(&bench, "all.gguf"), load(&bench, "one.gguf"));
        assert_close(&all, &one, model);
        assert_eq!(all.datasets.len(), WORDS.len());
        // No token is lost: every dense input has as many rows as the documents have tokens.
        let tokens: i64 = ran.stderr.split(" tokens (").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let dense = all.entries.values().filter(|entry| entry.counts.len() == 1);
        assert!(dense.into_iter().all(|entry| entry.counts == [tokens]), "{model}: {tokens}");
    }
}

#[test]
fn documents_of_a_chunks_length_are_chunks() {
    let bench = Bench::new(&["llama"]);
    // 64 tokens, BOS included, so that in one text each would begin where a chunk begins.
    let text: String = support::text(400, 5);
    let mut texts = Vec::new();
    for start in 0..4 {
        let words: Vec<&str> = text.split_whitespace().skip(start * 90).collect();
        let fits = |n: &usize| {
            bench.write("try.txt", words[..*n].join(" ").as_bytes());
            let ran = bench.ok("-m llama.gguf --documents -c 64 -f try.txt --dry-run");
            ran.stdout.starts_with("text        64 tokens")
        };
        texts.extend((10..60).find(fits).map(|n| words[..n].join(" ")));
    }
    assert!(texts.len() >= 2, "no text of 64 tokens");
    let lines: Vec<String> =
        texts.iter().map(|text| format!("{{\"text\":{}}}\n", serde_json::to_string(text).unwrap())).collect();
    bench.write("docs.jsonl", lines.concat().as_bytes());
    let apart = bench.ok("-m llama.gguf -c 64 -b 64 -f docs.jsonl --documents -o apart.gguf");
    let joined = bench.ok("-m llama.gguf -c 64 -b 64 -f docs.jsonl -o joined.gguf");
    assert_eq!(estimate(&apart), estimate(&joined));
    assert!(load(&bench, "apart.gguf").entries == load(&bench, "joined.gguf").entries);
}

#[test]
fn documents_give_the_same_bytes_on_any_number_of_lanes_and_threads() {
    let bench = Bench::new(&["llama", "qwen3moe", "mamba"]);
    documents(&bench, &WORDS.repeat(3));
    for (model, ubatch) in [("llama", 128), ("qwen3moe", 128), ("mamba", 128), ("llama", 32)] {
        let mut first = None;
        for flags in
            ["-t 1 --lanes 1", "-t 2 --lanes 1", "-t 2 --lanes 2", "-t 3 --lanes 3", "-t 2 --lanes 2 --shard 0/1"]
        {
            let ran = bench.ok(&format!("-m {model}.gguf --documents -f docs -c 64 -ub {ubatch} {flags} -ofreq 2"));
            let found = (bench.read("imatrix.gguf"), estimate(&ran).to_owned());
            assert!(*first.get_or_insert_with(|| found.clone()) == found, "{model} -ub {ubatch} {flags}");
        }
    }
}

#[test]
fn shards_of_documents_merge_to_the_bytes_of_one_run() {
    let bench = Bench::new(&["llama"]);
    documents(&bench, &WORDS.repeat(2));
    let run = "-m llama.gguf --documents -f docs -c 64 -ub 96 --shuffle --seed 3 --accumulate f64";
    let whole = bench.ok(&format!("{run} -o whole.gguf"));
    for shard in 0..3 {
        bench.ok(&format!("{run} --shard {shard}/3 -o {shard}.state"));
    }
    let merged = bench.ok("merge 2.state 0.state 1.state -o merged.gguf");
    assert!(bench.read("merged.gguf") == bench.read("whole.gguf"));
    assert!(merged.stdout.contains(estimate(&whole)) || merged.stderr.contains(estimate(&whole)), "{merged:?}");
    // Cut elsewhere, or in another order, they are another run's.
    std::fs::remove_file(bench.path("1.state")).unwrap();
    bench.ok(
        "-m llama.gguf --documents -f docs -c 64 -ub 96 --shuffle --seed 4 --accumulate f64 --shard 1/3 -o 1.state",
    );
    bench.fails("merge 2.state 0.state 1.state -o merged.gguf", &["sha256"]);
}

#[test]
fn a_stopped_run_over_documents_resumes_to_the_same_bytes() {
    let bench = Bench::new(&["llama"]);
    documents(&bench, &WORDS.repeat(2));
    let run = "-m llama.gguf --documents -f docs -c 64 -ub 96 --lanes 1";
    let whole = bench.ok(&format!("{run} -o whole.gguf"));
    let stopped = bench
        .command(&format!("{run} --state-frequency 2"))
        .env("LLAMA_IMATRIX_TEST_STOP_SAVE", "rename:3")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!stopped.status.success());
    let ran = bench.ok(&format!("{run} --resume"));
    assert!(ran.stderr.contains("resuming from"), "{}", ran.stderr);
    assert_eq!(estimate(&ran), estimate(&whole));
    assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"));
}

#[test]
fn a_bad_document_is_discarded_and_named() {
    let bench = Bench::new(&["llama-nan-token"]);
    // The model's bad token comes up in one of them.
    documents(&bench, &WORDS);
    for i in (0..WORDS.len()).filter(|&i| i != 6) {
        let name = format!("docs/{i:02}.txt");
        let text: String = String::from_utf8(bench.read(&name)).unwrap().chars().filter(char::is_ascii).collect();
        bench.write(&name, text.as_bytes());
    }
    let run = "-m llama-nan-token.gguf --documents -f docs -c 64 -ub 256";
    let mut first = None;
    for flags in ["--lanes 1", "--lanes 2 -t 2", "--lanes 1 --state-frequency 1"] {
        let ran = bench.ok(&format!("{run} {flags}"));
        let (_, named) = ran.stderr.split_once("discarded chunk ").unwrap();
        let (chunk, rest) = named.split_once(", tokens ").unwrap();
        assert!(rest.contains(" of the text: non-finite values detected in blk.0."), "{named}");
        let found = (chunk.to_owned(), bench.read("imatrix.gguf"));
        assert!(*first.get_or_insert_with(|| found.clone()) == found, "{flags}");
    }
    // Of its tokens none is in: as without the file.
    let with = load(&bench, "imatrix.gguf");
    std::fs::remove_file(bench.path("docs/06.txt")).unwrap();
    bench.ok(run);
    assert_close(&with, &load(&bench, "imatrix.gguf"), "without the bad one");
}

#[test]
fn a_sample_is_random_and_the_same_each_time() {
    let bench = Bench::new(&["llama"]);
    let run = |args: &str| {
        bench.ok(&format!("-m llama.gguf -f calibration.txt -c 64 -b 64 {args} -o out.gguf"));
        load(&bench, "out.gguf")
    };
    let first = run("--tokens 200");
    assert_eq!((first.chunk_count, first.entries["blk.0.attn_q.weight"].counts[0]), (3, 192));
    assert!(first.entries == run("--chunks 3").entries);
    let drawn = run("--tokens 200 --shuffle");
    assert!(drawn.entries != first.entries);
    assert!(drawn.entries == run("--chunks 3 --shuffle --seed 0").entries);
    assert!(drawn.entries != run("--chunks 3 --shuffle --seed 1").entries);
    let all = |args: &str| run(args).entries["blk.0.attn_q.weight"].counts[0];
    assert_eq!(all("--shuffle --keep-tail"), all("--keep-tail"));

    documents(&bench, &WORDS);
    let run = |args: &str| {
        let ran = bench.ok(&format!("-m llama.gguf -f docs --documents -c 64 {args} -o out.gguf"));
        (load(&bench, "out.gguf").entries["blk.0.attn_q.weight"].clone(), ran.stderr)
    };
    assert_eq!(run("--tokens 100").0.counts, [100]);
    assert_eq!(run("--tokens 100 --shuffle").0.counts, [100]);
    assert_ne!(run("--tokens 100 --shuffle").0, run("--tokens 100").0);
    assert_eq!(run("--shuffle").0.counts, run("--tokens 1M").0.counts);
    assert!(run("--keep-tail").1.contains("--keep-tail has no effect"));
}

#[test]
fn a_dry_run_describes_the_run_and_writes_nothing() {
    let bench = Bench::new(&["llama"]);
    documents(&bench, &WORDS);
    let run = "-m llama.gguf -f docs --documents -c 64 -ub 128 -t 2";
    let real = bench.ok(run);
    std::fs::remove_file(bench.path("imatrix.gguf")).unwrap();
    let before = bench.new_files(&[]);
    let dry = bench.ok(&format!("{run} --dry-run --tokens-per-second 10"));
    assert_eq!(bench.new_files(&[]), before, "no file is written");
    let line = |name: &str| {
        dry.stdout
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{dry:?}"))
            .trim()
            .to_owned()
    };
    let tokens: u64 = line("text").split(' ').next().unwrap().parse().unwrap();
    assert!(real.stderr.contains(&format!(" for {tokens} tokens (")), "{}", real.stderr);
    assert!(line("text").ends_with("tokens in 9 documents of 9 files"), "{}", line("text"));
    let chunks: u64 = line("chunks").split(' ').next().unwrap().parse().unwrap();
    assert!(real.stdout.contains(&format!("[{chunks}]")) || real.stderr.contains(&format!("over {chunks} chunks")));
    let batches: u64 = line("batches").split(' ').next().unwrap().parse().unwrap();
    assert!(real.stderr.contains(&format!("in {batches} batches")), "{}", real.stderr);
    assert!(line("memory").starts_with("host: ") && line("memory").contains("weights 0.7 MiB"), "{}", line("memory"));
    assert!(line("work").contains("operations in matrix products"));
    assert!(line("time").ends_with("at 10 tokens per second"), "{}", line("time"));
    assert!(bench.ok(&format!("{run} --dry-run")).stdout.contains("time        unknown, since nothing was computed"));
    // What a matrix is already there for stays as it is.
    bench.write("imatrix.gguf", b"mine");
    bench.ok(&format!("{run} --dry-run --shard 1/2"));
    assert_eq!(bench.read("imatrix.gguf"), b"mine");
}
