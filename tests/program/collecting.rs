//! The main job.

use llama_imatrix::imatrix::Imatrix;

use super::*;

#[test]
fn standard_output_is_perplexity_and_nothing_else() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 128 --chunks 5");
    let lines: Vec<&str> = ran.stdout.split('\n').collect();
    let [minutes, values, estimate, "", "", ""] = lines[..] else { panic!("{:?}", ran.stdout) };
    assert!(minutes.strip_suffix(" minutes").unwrap().parse::<f64>().is_ok(), "{minutes}");
    let values: Vec<&str> = values.strip_suffix(',').unwrap().split(',').collect();
    assert_eq!(values.len(), 5);
    for (i, value) in values.iter().enumerate() {
        let (chunk, value) = value.strip_prefix('[').unwrap().split_once(']').unwrap();
        assert_eq!(chunk, (i + 1).to_string());
        assert_eq!(value.split_once('.').unwrap().1.len(), 4);
    }
    let last = values[4].split_once(']').unwrap().1;
    assert!(estimate.starts_with(&format!("Final estimate: PPL = {last} +/- ")), "{estimate}");
}

#[test]
fn without_perplexity_only_saves_are_printed() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 12 --no-ppl");
    let (save, rest) = ran.stdout.split_once(" minutes\n").unwrap();
    assert!(save.parse::<f64>().is_ok());
    assert_eq!(rest, "\n\n\n\n", "chunk 10, end of the loop, the last save, the end");
    assert_eq!(bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 12 --no-ppl -lv 0").stderr, "");
}

#[test]
fn collecting_gives_the_same_bytes_on_any_number_of_threads() {
    let bench = Bench::new(&["qwen3moe"]);
    let args = "-m qwen3moe.gguf -f calibration.txt -c 64 -b 128 --chunks 4";
    bench.ok(&format!("{args} -t 1 -o one.gguf"));
    bench.ok(&format!("{args} -t 2 -tb 2 -o two.gguf"));
    assert_eq!(bench.read("one.gguf"), bench.read("two.gguf"));
}

#[test]
fn the_file_records_its_chunks_and_datasets() {
    let bench = Bench::new(&["llama"]);
    bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunk 2 --chunks 3 -o a.gguf");
    let a = Imatrix::load(bench.path("a.gguf")).unwrap();
    assert_eq!((a.chunk_count, a.chunk_size, &a.datasets[..]), (3, 64, &["calibration.txt".to_owned()][..]));
    assert!(a.entries.values().all(|entry| entry.counts == [192]));
    assert!(a.entries.keys().all(|name| name.starts_with("blk.")));

    // On top of it: sums go on, data sets add up.
    bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2 --in-file a.gguf -o b.gguf");
    let b = Imatrix::load(bench.path("b.gguf")).unwrap();
    assert_eq!((b.chunk_count, b.datasets.len()), (5, 2));
    assert!(b.entries.values().all(|entry| entry.counts == [320]));
}

#[test]
fn the_output_matrix_is_collected_on_request_tied_or_not() {
    let bench = Bench::new(&["llama", "gemma3"]);
    for (model, weight) in [("llama", "output.weight"), ("gemma3", "token_embd.weight")] {
        bench.ok(&format!("-m {model}.gguf -f calibration.txt -c 64 -b 64 --chunks 2 --process-output"));
        let imatrix = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
        assert!(imatrix.entries.contains_key(weight), "{model}");
    }
}

#[test]
fn an_expert_that_is_never_routed_to_is_zero_and_named() {
    let bench = Bench::new(&["qwen3moe"]);
    let ran = bench.ok("-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 4");
    let imatrix = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
    let name = format!("blk.{}.ffn_up_exps.weight", support::DEAD_LAYER);
    let entry = &imatrix.entries[&name];
    let (dead, width) = (support::DEAD_EXPERT as usize, entry.sum2.len() / entry.counts.len());
    assert_eq!(entry.counts[dead], 0);
    assert!(entry.sum2[dead * width..(dead + 1) * width].iter().all(|&sum| sum == 0.0));
    assert!(entry.counts.iter().sum::<i64>() > 0);
    // Gate, up and down share their experts: one warning for all.
    assert_eq!(ran.stderr.matches("partial data").count(), 1, "{}", ran.stderr);
    let says = [
        "warning: 6 of ",
        " weights have partial data: in 2 layers no token was routed to 2 experts; the worst is 'blk.",
        "(87.50%, 1 of 8 experts unseen)",
        "\nhint: collect over more text",
    ];
    assert!(says.iter().all(|says| ran.stderr.contains(says)), "{}", ran.stderr);
}

/// llama.cpp's tool aborts here: a model without memory takes no batch larger than a micro-batch.
#[test]
fn diffusion_models_are_collected_with_any_batch() {
    let bench = Bench::new(&["llada", "dream"]);
    for model in ["llada", "dream"] {
        let args = format!("-m {model}.gguf -f calibration.txt -c 64 --chunks 4");
        bench.ok(&format!("{args} -b 64 -o whole.gguf"));
        bench.ok(&format!("{args} -b 64 -ub 32 -o parts.gguf"));
        bench.ok(&format!("{args} -b 32 -o halves.gguf"));
        assert_eq!(bench.read("whole.gguf"), bench.read("parts.gguf"));
        assert_eq!(bench.read("whole.gguf"), bench.read("halves.gguf"));
        bench.ok(&format!("{args} -b 256 -ub 64 -o four.gguf"));
        let four = Imatrix::load(bench.path("four.gguf")).unwrap();
        assert!(four.entries.values().all(|entry| entry.counts == [256]));
    }
}

#[test]
fn saves_hold_whole_chunks_for_all_weights() {
    let bench = Bench::new(&["llama"]);
    bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 5 --save-frequency 2");
    for chunks in [2, 4] {
        let copy = Imatrix::load(bench.path(&format!("imatrix.gguf.at_{chunks}"))).unwrap();
        assert_eq!(copy.chunk_count, chunks);
        assert!(copy.entries.values().all(|entry| entry.counts == [i64::from(chunks) * 64]));
    }
    bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2 -o short.gguf");
    assert_eq!(bench.read("short.gguf"), bench.read("imatrix.gguf.at_2"), "a copy is what a run of that length gives");
}

#[cfg(unix)]
#[test]
fn a_kill_at_any_instant_leaves_the_last_save_whole() {
    use std::time::{Duration, Instant};
    let bench = Bench::new(&["llama"]);
    let args = "-m llama.gguf -f calibration.txt -c 32 -b 32 -ofreq 1 --no-ppl";
    for pause in [0, 3, 10, 30] {
        let _ = std::fs::remove_file(bench.path("imatrix.gguf"));
        let mut child = bench
            .command(args)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        while !bench.path("imatrix.gguf").exists() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let saved = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
        assert!(saved.chunk_count > 0);
        assert!(saved.entries.values().all(|entry| entry.counts == [i64::from(saved.chunk_count) * 32]));
    }
}

#[test]
fn flags_come_from_the_environment_too() {
    let bench = Bench::new(&["llama"]);
    let ran = run(bench
        .command("-f calibration.txt -b 64 --chunks 2")
        .env("LLAMA_ARG_MODEL", "llama.gguf")
        .env("LLAMA_ARG_CTX_SIZE", "64"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(Imatrix::load(bench.path("imatrix.gguf")).unwrap().chunk_size, 64);
}

#[test]
fn flags_come_from_the_users_configuration_too() {
    let bench = Bench::new(&["llama"]);
    let chunk_size = |args: &str, size: Option<&str>| {
        let mut command = bench.command(args);
        if let Some(size) = size {
            command.env("LLAMA_ARG_CTX_SIZE", size);
        }
        let ran = run(&mut command);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        (Imatrix::load(bench.path("imatrix.gguf")).unwrap().chunk_size, ran.stderr)
    };
    std::fs::create_dir_all(bench.path("config/llama.cpp")).unwrap();
    bench.write("config/llama.cpp/config.ini", b"[*]\nctx-size = 32 ; a chunk\nport = 8080\nchunks = 2\n");
    let args = "-m llama.gguf -f calibration.txt -b 64";
    let (size, stderr) = chunk_size(args, None);
    assert_eq!(size, 32);
    assert!(stderr.contains("ignoring option 'port'"), "{stderr}");
    assert_eq!(chunk_size(args, Some("48")).0, 48, "the environment over the file");
    assert_eq!(chunk_size(&format!("{args} -c 64"), Some("48")).0, 64, "the command line over both");
    bench.write("config/llama.cpp/config.ini", b"ctx-size\n");
    assert!(bench.fails(args, &["failed to parse config file", "line 1"]).stdout.is_empty());
}

#[test]
fn special_tokens_are_read_on_request() {
    let bench = Bench::new(&["qwen2"]);
    let text = "<|im_start|>some words of a chat<|im_end|>\n".repeat(60);
    bench.write("chat.txt", text.as_bytes());
    let chunks = |flag: &str| {
        bench.ok(&format!("-m qwen2.gguf -f chat.txt -c 32 -b 32 --no-ppl {flag}"));
        Imatrix::load(bench.path("imatrix.gguf")).unwrap().chunk_count
    };
    assert!(chunks("--parse-special") < chunks(""));
}

#[test]
fn the_tail_of_the_text_is_collected_on_request() {
    let bench = Bench::new(&["llama"]);
    let args = "-m llama.gguf -f calibration.txt -c 512 -b 1024";
    let plain = bench.ok(&format!("{args} -o plain.gguf"));
    let kept = bench.ok(&format!("{args} --keep-tail -o kept.gguf"));
    let [plain_imatrix, kept_imatrix] =
        ["plain.gguf", "kept.gguf"].map(|name| Imatrix::load(bench.path(name)).unwrap());
    for (name, entry) in &kept_imatrix.entries {
        let tail = entry.counts[0] - plain_imatrix.entries[name].counts[0];
        assert!((16..512).contains(&tail), "{name}: {tail}");
    }
    let estimate = |ran: &Ran| ran.stdout.lines().find(|line| line.starts_with("Final")).map(str::to_owned);
    assert_eq!(estimate(&plain), estimate(&kept), "perplexity is over whole chunks");

    // A text shorter than a chunk.
    bench.write("short.txt", support::text(40, 1).as_bytes());
    let ran = bench.ok("-m llama.gguf -f short.txt --keep-tail");
    assert!(!ran.stdout.contains("Final"), "{}", ran.stdout);
    assert!(Imatrix::load(bench.path("imatrix.gguf")).unwrap().entries["blk.0.attn_q.weight"].counts[0] > 16);
}

#[test]
fn small_inputs_are_skipped_with_a_warning_or_collected_on_request() {
    let bench = Bench::new(&["llama"]);
    let args = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2 -ub 8";
    let ran = bench.ok(&format!("{args} -o none.gguf"));
    assert!(ran.stderr.contains("inputs with fewer than 16 rows were skipped; hint: --min-rows 1"), "{}", ran.stderr);
    let ran = bench.ok(&format!("{args} --min-rows 1 -o all.gguf"));
    assert!(!ran.stderr.contains("were skipped"), "{}", ran.stderr);
    let all = Imatrix::load(bench.path("all.gguf")).unwrap();
    assert!(!all.entries.is_empty() && all.entries.values().all(|entry| entry.counts == [128]));
}

/// llama.cpp's tool aborts here.
#[test]
fn encoders_are_collected_without_perplexity() {
    let bench = Bench::new(&["bert"]);
    for flags in ["-b 64", "-b 256 -ub 32", "-b 32"] {
        let ran = bench.ok(&format!("-m bert.gguf -f calibration.txt -c 64 --chunks 4 {flags}"));
        assert!(ran.stderr.contains("no logits"), "{}", ran.stderr);
        assert!(!ran.stdout.contains('['), "{}", ran.stdout);
        let imatrix = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
        assert_eq!(imatrix.entries.len(), 2 * 6);
        assert!(imatrix.entries.values().all(|entry| entry.counts == [256]));
    }
    assert!(!bench.ok("-m bert.gguf -f calibration.txt -c 64 --chunks 4 --no-ppl").stderr.contains("no logits"));
}
