//! Inputs that look right and are not: texts, vocabularies, matrices.

use llama_imatrix::gguf::{File, Writer};
use llama_imatrix::imatrix::{Format, Imatrix};

use super::*;

const RUN: &str = "-f calibration.txt -c 64 -b 64 --chunks 2";

#[test]
fn a_vocabulary_that_cannot_tokenize_is_an_error() {
    let bench = Bench::new(&["llama-no-vocab", "llama-no-bytes", "llama-no-bos", "llama-token-twice"]);
    for (model, says) in [
        ("llama-no-vocab", "the model has no tokenizer (tokenizer.ggml.model is 'no_vocab' or 'none')"),
        ("llama-no-bytes", "calibration.txt: llama.cpp's tokenizer fails on this text: "),
        ("llama-no-bos", "texts begin with BOS (tokenizer.ggml.add_bos_token), and the model's vocabulary has no such"),
        ("llama-token-twice", "cannot load model 'llama-token-twice.gguf': tokenizer.ggml.tokens has \"<0x42>\" twice"),
    ] {
        bench.fails(&format!("-m {model}.gguf {RUN}"), &[says]);
    }
}

/// llama.cpp's tokenizer throws for what is above the last code point, and runs through other bytes without a word.
#[test]
fn text_that_is_not_utf8_is_reported_by_its_offset() {
    let bench = Bench::new(&["llama", "qwen2"]);
    let mut text = bench.read("calibration.txt");
    text.extend_from_slice(b"caf\xe9");
    bench.write("latin1.txt", &text);
    let at = text.len() - 1;
    for model in ["llama", "qwen2"] {
        let ran = bench.ok(&format!("-m {model}.gguf -f latin1.txt -c 64 -b 64 --chunks 2"));
        let says = format!("latin1.txt: 1 byte sequence not UTF-8, the first at offset {at}");
        assert!(ran.stderr.contains(&says), "{}", ran.stderr);
    }
    let ran = bench.ok(&format!("-m llama.gguf {RUN}"));
    assert!(!ran.stderr.contains("not UTF-8"), "{}", ran.stderr);
    bench.write("beyond.txt", &[text.as_slice(), b"\xf7\xbf\xbf\xbf"].concat());
    let says = ["beyond.txt: llama.cpp's tokenizer fails on this text: invalid codepoint"];
    bench.fails("-m qwen2.gguf -f beyond.txt -c 64 -b 64 --chunks 2", &says);
}

#[test]
fn a_file_that_is_no_text_is_an_error_and_in_a_folder_skipped() {
    let bench = Bench::new(&["llama", "qwen2"]);
    let run = "-m llama.gguf -c 64 -b 64 --chunks 2";
    bench.fails(&format!("{run} -f qwen2.gguf"), &["'qwen2.gguf' is no text: it is a GGUF file"]);
    bench.write("nul.txt", b"some text\0");
    bench.fails(&format!("{run} -f nul.txt"), &["'nul.txt' is no text: it has a NUL byte at offset 9"]);
    bench.write("utf16.txt", b"\xff\xfes\0o\0");
    bench.fails(&format!("{run} -f utf16.txt"), &["byte order mark of UTF-16; hint: iconv -f UTF-16 -t UTF-8"]);
    // The folder has a model beside its text.
    std::fs::create_dir(bench.path("folder")).unwrap();
    bench.write("folder/a.gguf", &support::build("llama"));
    bench.write("folder/b.txt", &bench.read("calibration.txt"));
    let ran = bench.ok(&format!("{run} -f folder -o folder.gguf"));
    assert!(ran.stderr.contains("folder/a.gguf: skipped, it is no text: it is a GGUF file"), "{}", ran.stderr);
    assert_eq!(Imatrix::load(bench.path("folder.gguf")).unwrap().datasets, ["folder/b.txt"]);
}

#[test]
fn a_matrix_of_another_model_is_refused_by_its_names() {
    let bench = Bench::new(&["llama", "qwen3moe"]);
    bench.ok(&format!("-m qwen3moe.gguf {RUN} -o moe.imatrix.gguf"));
    let says = ["'moe.imatrix.gguf' is of another model: 'llama.gguf' has no tensor for ", "blk.0.ffn_", "hint: "];
    let ran = bench.fails(&format!("-m llama.gguf {RUN} --in-file moe.imatrix.gguf"), &says);
    assert!(!ran.stderr.contains("tokenizing"), "found before the run:\n{}", ran.stderr);
}

/// Every name that a run collects passes for a run over the same model.
#[test]
fn a_matrix_of_the_same_model_passes() {
    let names: Vec<_> = support::MODELS.iter().chain(support::BEYOND).map(|model| model.name).collect();
    let bench = Bench::new(&names);
    for name in names {
        let run = format!("-m {name}.gguf {RUN} --process-output");
        bench.ok(&format!("{run} -o first.gguf"));
        bench.ok(&format!("{run} --in-file first.gguf -o second.gguf"));
    }
}

#[test]
fn a_matrix_with_a_drafts_layers_passes_with_the_draft_and_without() {
    let bench = Bench::new(&["nextn-trunk", "draft-head"]);
    let run = format!("-m nextn-trunk.gguf {RUN}");
    bench.ok(&format!("{run} -md draft-head.gguf --process-output -o pair.gguf"));
    bench.ok(&format!("{run} -md draft-head.gguf --in-file pair.gguf"));
    bench.ok(&format!("{run} --in-file pair.gguf"));
}

/// The weights of a split model are in several files.
#[test]
fn a_matrix_of_a_split_model_passes() {
    let bench = Bench::new(&["llama"]);
    let bytes = bench.read("llama.gguf");
    let model = File::from_bytes(bytes.as_slice()).unwrap();
    let half = model.tensors().len() / 2;
    for part in 0..2_u16 {
        let mut writer = Writer::new();
        for (key, value) in model.keys() {
            writer.set(key, value.clone());
        }
        let n_tensors = model.tensors().len() as i32;
        writer.set("split.no", part).set("split.count", 2_u16).set("split.tensors.count", n_tensors);
        for (i, tensor) in model.tensors().enumerate() {
            if usize::from(part) == usize::from(i >= half) {
                writer.tensor(tensor.name, tensor.dtype, &tensor.shape[..tensor.n_dims], tensor.data.to_vec()).unwrap();
            }
        }
        let mut split = Vec::new();
        writer.write_to(&mut split).unwrap();
        bench.write(&format!("m-0000{}-of-00002.gguf", part + 1), &split);
    }
    bench.ok(&format!("-m llama.gguf {RUN} -o whole.gguf"));
    bench.ok(&format!("-m m-00001-of-00002.gguf {RUN} --in-file whole.gguf -o split.gguf"));
}

#[test]
fn merging_unrelated_matrices_warns() {
    let bench = Bench::new(&["llama", "qwen3moe"]);
    for model in ["llama", "qwen3moe"] {
        bench.ok(&format!("-m {model}.gguf {RUN} -o {model}.imatrix.gguf"));
    }
    let entries = |name: &str| Imatrix::load(bench.path(name)).unwrap().entries;
    let (a, b) = (entries("llama.imatrix.gguf"), entries("qwen3moe.imatrix.gguf"));
    // Names that both have are of other sizes, which is an error; without them it is a merge.
    let rest = b.iter().filter(|(name, _)| !a.contains_key(*name)).map(|(name, entry)| (name.clone(), entry.clone()));
    let rest = Imatrix { entries: rest.collect(), chunk_size: 64, ..Imatrix::default() };
    rest.save(&bench.path("qwen3moe.imatrix.gguf"), Format::Gguf).unwrap();
    let (of_a, of_b) = (a.len(), rest.entries.len());
    let total = of_a + of_b;
    let says = format!(
        "{total} of {total} names are not in all files: {of_a} of them in 'llama.imatrix.gguf', {of_b} of them in \
         'qwen3moe.imatrix.gguf'; are these matrices of one model?"
    );
    for merge in [
        "--in-file llama.imatrix.gguf --in-file qwen3moe.imatrix.gguf -o merged.gguf",
        "merge llama.imatrix.gguf qwen3moe.imatrix.gguf -o merged.gguf",
    ] {
        let ran = bench.ok(merge);
        assert!(ran.stderr.contains(&says), "no '{says}' in\n{}", ran.stderr);
    }
    let ran = bench.ok("--in-file llama.imatrix.gguf --in-file llama.imatrix.gguf -o merged.gguf");
    assert!(!ran.stderr.contains("not in all files"), "{}", ran.stderr);
}

#[test]
fn sums_that_are_not_finite_are_an_error_in_a_run_and_a_warning_elsewhere() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("-m llama.gguf {RUN} -o good.gguf"));
    let good = Imatrix::load(bench.path("good.gguf")).unwrap();
    let write = |name: &str, value: f32, format| {
        let mut entries = good.entries.clone();
        entries.get_mut("blk.1.ffn_up.weight").unwrap().sum2[3] = value;
        let bad = Imatrix { entries, chunk_size: 64, ..Imatrix::default() };
        bad.save(&bench.path(name), format).unwrap();
    };
    write("nan.gguf", f32::NAN, Format::Gguf);
    write("inf.dat", f32::INFINITY, Format::Dat);
    write("negative.gguf", -1.0, Format::Gguf);
    for (file, value) in [("nan.gguf", "NaN"), ("inf.dat", "inf"), ("negative.gguf", "-1")] {
        let says =
            format!("'{file}': in_sum2 of blk.1.ffn_up.weight has {value} at channel 3, expected a finite number");
        let ran = bench.fails(&format!("-m llama.gguf {RUN} --in-file {file}"), &["error: ", &says]);
        assert!(!ran.stderr.contains("tokenizing"), "{}", ran.stderr);
        for command in [
            format!("--in-file {file} -o out.gguf"),
            format!("--in-file {file} -o out.dat"),
            format!("--show-statistics --in-file {file}"),
            format!("merge good.gguf {file} -o out.gguf"),
            format!("stats {file}"),
            format!("compare good.gguf {file}"),
        ] {
            let ran = bench.run(&command);
            assert!(ran.stderr.contains(&format!("warning: {says}")), "{command}\n{}", ran.stderr);
            assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        }
    }
}

/// Who opens a pipe a second time waits for a writer that does not come.
#[cfg(unix)]
#[test]
fn a_pipe_is_read_once() {
    let bench = Bench::new(&["llama"]);
    bench.ok(&format!("-m llama.gguf {RUN} -o a.gguf"));
    for args in [
        format!("-m llama.gguf {RUN} --in-file pipe -o out.gguf"),
        "--in-file pipe -o out.gguf".to_owned(),
        "--show-statistics --in-file pipe".to_owned(),
        "merge a.gguf pipe -o out.gguf".to_owned(),
        "stats pipe".to_owned(),
    ] {
        let _ = std::fs::remove_file(bench.path("pipe"));
        assert!(Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
        let mut command = bench.command(&args);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let (path, bytes) = (bench.path("pipe"), bench.read("a.gguf"));
        let writer = std::thread::spawn(move || std::fs::write(path, bytes));
        let started = std::time::Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed().as_secs() > 60 {
                child.kill().unwrap();
                panic!("{args}: still waiting");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        assert!(status.success(), "{args}");
        writer.join().unwrap().unwrap();
    }
}

/// As llama.cpp's tool has it: none of the text, or all of it.
#[test]
fn chunk_counts_that_mean_none_or_all_are_explained() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64";
    bench.ok(&format!("{run} --chunks 2 -o two.gguf"));
    let ran = bench.ok(&format!("{run} --chunks 0 --in-file two.gguf -o none.gguf"));
    assert!(ran.stderr.contains("--chunks 0 evaluates nothing of the text"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("shard"), "{}", ran.stderr);
    let entries = |name: &str| Imatrix::load(bench.path(name)).unwrap().entries;
    assert_eq!(entries("none.gguf"), entries("two.gguf"));
    assert_eq!(ran.stdout, "\nUnexpected negative standard deviation of log(prob)\n\n\n");
    let ran = bench.ok(&format!("{run} --chunks -3 -o all.gguf"));
    assert!(ran.stderr.contains("--chunks -3 evaluates all chunks, as -1 does"), "{}", ran.stderr);
    let plain = bench.ok(&format!("{run} -o plain.gguf"));
    assert!(bench.read("all.gguf") == bench.read("plain.gguf") && estimate(&ran) == estimate(&plain));
}

/// llama.cpp has a limit of sequences per batch.
#[test]
fn chunks_so_short_that_a_batch_has_too_many_are_an_error_with_a_hint() {
    let bench = Bench::new(&["llama"]);
    let says =
        ["682 sequences", "llama.cpp allows 256 sequences; a smaller --batch-size or a larger --ctx-size makes fewer"];
    let ran = bench.fails("-m llama.gguf -f calibration.txt -c 3", &says);
    assert!(!ran.stderr.contains("llama_init_from_model"), "{}", ran.stderr);
}
