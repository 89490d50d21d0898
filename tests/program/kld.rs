//! `kld`, and `sensitivity`, which measures with it. `scripts/check-kld.sh` compares the tables with llama-perplexity's.

use std::collections::BTreeMap;

use llama_imatrix::gguf::{DType, File, Writer};
use llama_imatrix::llama::{EditableModel, ModelOptions, QuantizedRows};

use super::Bench;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Writes a copy of the test model with all matrices in a type.
fn quantize(bench: &Bench, name: &str, dtype: DType) {
    let file = File::from_bytes(bench.read("llama.gguf")).unwrap();
    let mut writer = Writer::new();
    file.keys().for_each(|(key, value)| {
        writer.set(key, value.clone());
    });
    for t in file.tensors() {
        let shape = &t.shape[..t.n_dims];
        if t.n_dims < 2 {
            writer.tensor(t.name, t.dtype, shape, t.data).unwrap();
            continue;
        }
        let mut rows = QuantizedRows::new(dtype, t.shape[0] as usize).unwrap();
        rows.quantize(&t.to_f32().unwrap(), None).unwrap();
        writer.tensor(t.name, dtype, shape, rows.bytes().to_vec()).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bench.write(name, &bytes);
}

#[test]
fn candidates_are_compared_in_one_pass_as_each_alone() {
    let bench = Bench::new(&["llama", "qwen3moe", "bert"]);
    quantize(&bench, "q8.gguf", DType::Q8_0);
    quantize(&bench, "q4.gguf", DType::Q4_0);
    let run = |candidates: &str| {
        let args = format!("kld llama.gguf {candidates} -f calibration.txt -c 128 --chunks 4 -t 1 --json");
        json(&bench.ok(&args).stdout)["candidates"].as_array().unwrap().clone()
    };
    let together = run("llama.gguf q8.gguf q4.gguf");
    let alone: Vec<_> = ["llama.gguf", "q8.gguf", "q4.gguf"].iter().flat_map(|name| run(name)).collect();
    assert_eq!(together, alone);
    let divergence = |i: usize| together[i]["divergence"]["value"].as_f64().unwrap();
    assert!(
        divergence(0).abs() < 1e-5 && divergence(0) < divergence(1) && divergence(1) < divergence(2) / 4.0,
        "{together:?}"
    );
    assert_eq!(together[0]["same_top"]["value"].as_f64(), Some(1.0));
    assert_eq!(together[0]["tokens"].as_u64(), Some(4 * 63), "the second half of each chunk, but for its last token");

    let ran = bench.ok("kld llama.gguf q4.gguf -f calibration.txt -c 128 --chunks 4 -t 1");
    for part in [
        "chunk             PPL",
        "\n   4  ",
        "Mean    KLD:",
        "Median  KLD:",
        "Same top p:",
        "RMS Δp    :",
        "Cor(ln(PPL(Q)), ln(PPL(base)))",
    ] {
        assert!(ran.stdout.contains(part), "no '{part}' in\n{}", ran.stdout);
    }
    bench.fails("kld llama.gguf qwen3moe.gguf none.gguf -f calibration.txt", &["none.gguf"]);
    bench.fails("kld llama.gguf bert.gguf -f calibration.txt -c 128", &["bert.gguf"]);
    bench.fails("kld llama.gguf q8.gguf -f none.txt", &["none.txt"]);
    bench.fails("kld llama.gguf q8.gguf", &["--file"]);
    bench.fails("kld llama.gguf -f calibration.txt", &["CANDIDATE"]);
}

#[test]
fn a_file_of_logits_stands_for_the_reference() {
    let bench = Bench::new(&["llama"]);
    quantize(&bench, "q4.gguf", DType::Q4_0);
    let text = "-f calibration.txt -c 128 -t 1";
    let of_model = bench.ok(&format!("kld llama.gguf q4.gguf {text} --chunks 4 --save-logits a.logits")).stdout;
    bench.ok(&format!("kld llama.gguf {text} --chunks 4 --save-logits b.logits"));
    assert!(bench.read("a.logits") == bench.read("b.logits"), "the same file without a candidate");
    assert_eq!(bench.ok(&format!("kld a.logits q4.gguf {text} --chunks 4")).stdout, of_model);
    let longer = bench.ok(&format!("kld a.logits q4.gguf {text} --chunks 6"));
    assert_eq!(longer.stdout, of_model);
    assert!(longer.stderr.contains("the logits file has 4 of the text's 6 chunks"), "{}", longer.stderr);

    let document = json(&bench.ok(&format!("kld a.logits q4.gguf {text} --chunks 4 --json")).stdout);
    let candidate = &document["candidates"][0];
    let per_chunk = candidate["per_chunk"].as_array().unwrap();
    let value = |numbers: &serde_json::Value| numbers["divergence"]["value"].as_f64().unwrap();
    let mean = per_chunk.iter().map(value).sum::<f64>() / 4.0;
    assert!(per_chunk.len() == 4 && (mean / value(candidate) - 1.0).abs() < 1e-9, "{document}");

    bench.fails("kld a.logits q4.gguf -f calibration.txt -c 64 --chunks 4", &["a.logits", "tokens per chunk"]);
    bench.fails(&format!("kld a.logits q4.gguf {text} --save-logits c.logits"), &["'a.logits' is a file of logits"]);
    bench.fails(&format!("kld a.logits {text}"), &["CANDIDATE"]);
    bench.fails(&format!("kld llama.gguf q4.gguf {text} --save-logits q4.gguf"), &["q4.gguf", "--save-logits"]);
    bench.fails(&format!("kld llama.gguf {text} --save-logits calibration.txt"), &["calibration.txt"]);
    bench.write("notes", b"mine");
    bench.fails(&format!("kld llama.gguf {text} --save-logits notes"), &["is not a logits file", "hint:"]);
    let cut = bench.read("a.logits");
    bench.write("cut.logits", &cut[..cut.len() - 2]);
    bench.fails(&format!("kld cut.logits q4.gguf {text}"), &["cut.logits", "bytes, expected"]);
}

#[test]
fn documents_are_compared_apart_and_have_rows() {
    let bench = Bench::new(&["llama"]);
    quantize(&bench, "q4.gguf", DType::Q4_0);
    let text = String::from_utf8(bench.read("calibration.txt")).unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let document = |range: std::ops::Range<usize>| words[range].join(" ");
    bench.write("a.txt", document(0..150).as_bytes());
    bench.write("b.txt", document(150..220).as_bytes());
    let line = |text: &str| serde_json::json!({ "text": text }).to_string();
    let lines: Vec<String> = (0..9).map(|i| line(&document(220 + 30 * i..250 + 30 * i))).collect();
    bench.write("c.jsonl", (lines.join("\n") + "\n").as_bytes());

    let kld = |more: &str| format!("kld llama.gguf q4.gguf -c 128 -t 1 {more}");
    let parsed = |args: &str| json(&bench.ok(args).stdout);
    let files = "-f a.txt -f b.txt -f c.jsonl";
    let together = parsed(&kld(&format!("{files} --documents --json")));
    let candidate = &together["candidates"][0];
    let rows = |name: &str| candidate[name].as_array().unwrap().clone();
    let names: Vec<String> = rows("per_document").iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> =
        ["a.txt", "b.txt"].map(str::to_owned).into_iter().chain((1..=9).map(|i| format!("c.jsonl:{i}"))).collect();
    assert_eq!(names, expected);
    assert!(rows("per_chunk").len() > rows("per_document").len(), "a.txt has several chunks");
    let tokens = |rows: &[serde_json::Value]| rows.iter().map(|row| row["tokens"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(tokens(&rows("per_document")), candidate["tokens"].as_u64().unwrap());
    assert_eq!(tokens(&rows("per_chunk")), candidate["tokens"].as_u64().unwrap());

    // A document has the numbers that it has alone.
    for (i, name) in [(0, "a.txt"), (1, "b.txt")] {
        let alone = parsed(&kld(&format!("-f {name} --documents --json")));
        let number = |value: &serde_json::Value| value["divergence"]["value"].as_f64().unwrap();
        let (found, expected) = (number(&rows("per_document")[i]), number(&alone["candidates"][0]));
        assert!((found - expected).abs() < 1e-9 && found > 0.0, "{name}: {found}, alone {expected}");
    }
    let over = |name: &str| candidate[name]["interval"].as_array().unwrap().clone();
    let value = candidate["divergence"]["value"].as_f64().unwrap();
    for name in ["divergence_over_documents", "divergence_over_chunks"] {
        let interval = over(name);
        let (low, high) = (interval[0].as_f64().unwrap(), interval[1].as_f64().unwrap());
        assert!(low < value && value < high, "{name}: {interval:?} around {value}");
    }

    let table = bench.ok(&kld(&format!("{files} --documents"))).stdout;
    assert!(table.contains("Document") && table.contains("c.jsonl:9") && table.contains("11 documents as samples"));
    let by_chunk = bench.ok(&kld("-f calibration.txt --chunks 4 --by chunk")).stdout;
    let rows: Vec<&str> = by_chunk.split("ln(PPL ratio)").nth(1).unwrap().lines().skip(2).collect();
    assert!(rows.len() == 4 && rows[3].starts_with("4 "), "{by_chunk}");
    assert!(!bench.ok(&kld("-f calibration.txt --chunks 4")).stdout.contains("ln(PPL ratio)"));

    bench.write("d.jsonl", (line("a") + "\n" + &line(&document(0..60)) + "\n").as_bytes());
    let short = bench.ok(&kld("-f d.jsonl --documents"));
    assert!(short.stderr.contains("1 of 2 documents are left out: they have fewer than 3 tokens"), "{}", short.stderr);
    bench.fails(&kld("-f a.txt --by document"), &["--by document requires --documents"]);
    bench.fails(&kld("-f a.txt --documents --save-logits a.logits"), &["--documents", "--save-logits"]);
    bench.ok("kld llama.gguf -f calibration.txt -c 128 -t 1 --chunks 2 --save-logits a.logits");
    bench.fails("kld a.logits q4.gguf -f a.txt -c 128 --documents", &["a.logits", "file of logits"]);
}

#[test]
fn layers_and_kinds_are_measured_together_and_serve_recipes() {
    let bench = Bench::new(&["llama"]);
    let golden = format!("{}/tests/data/collect/llama.gguf", env!("CARGO_MANIFEST_DIR"));
    bench.write("m.gguf", &std::fs::read(golden).unwrap());
    let args = "sensitivity llama.gguf m.gguf -f calibration.txt -c 64 --tokens 256 -t 1 --type q4_K";
    let read = |name: &str| json(std::str::from_utf8(&bench.read(name)).unwrap());
    bench.ok(&format!("{args} -o weights.json"));
    let alone = read("weights.json")["weights"].as_object().unwrap().clone();
    let recipe = "recipe llama.gguf m.gguf --bpw 6 --format json";
    let estimated = bench.ok(recipe).stdout;
    for (by, groups) in [
        ("layer", vec!["blk.0", "blk.1", "blk.2", "output.weight", "token_embd.weight"]),
        (
            "kind",
            vec![
                "attn_k",
                "attn_output",
                "attn_q",
                "attn_v",
                "ffn_down",
                "ffn_gate",
                "ffn_up",
                "output.weight",
                "token_embd.weight",
            ],
        ),
    ] {
        let ran = bench.ok(&format!("{args} --by {by} -o {by}.json"));
        assert!(ran.stderr.contains("23 weights over 4 chunks"), "{}", ran.stderr);
        let file = read(&format!("{by}.json"));
        let found = file["groups"].as_object().unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), groups);
        let mut seen = 0;
        for (name, group) in found {
            let weights = group["weights"].as_object().unwrap();
            seen += weights.len();
            for (weight, measured) in weights {
                assert_eq!(measured["error"], alone[weight]["error"], "{weight}: the same error as alone");
            }
            if weights.len() == 1 {
                let (weight, _) = weights.iter().next().unwrap();
                assert_eq!(group["divergence"], alone[weight]["divergence"], "{name}: a group of one");
            }
            // Errors of several weights add up, roughly.
            let sum: f64 = weights.keys().map(|weight| alone[weight]["divergence"].as_f64().unwrap()).sum();
            let ratio = group["divergence"].as_f64().unwrap() / sum;
            assert!((0.5..2.0).contains(&ratio), "{name}: {ratio}");
        }
        assert_eq!(seen, alone.len());

        // Each part begins with an unchanged model, and a file that lacks groups is continued.
        bench.ok(&format!("{args} --by {by} -o part.json --shard 1/2"));
        bench.ok(&format!("{args} --by {by} -o rest.json --shard 2/2"));
        let shards = bench.ok(&format!("{recipe} --sensitivity part.json --sensitivity rest.json")).stdout;
        bench.ok(&format!("{args} --by {by} -o part.json"));
        assert!(bench.read("part.json") == bench.read(&format!("{by}.json")), "{by}: a continued file");
        let whole = bench.ok(&format!("{recipe} --sensitivity {by}.json")).stdout;
        assert!(whole == shards && whole != estimated, "{by}");
        bench.fails(&format!("{args} -o {by}.json"), &["another measurement", "--by"]);
        std::fs::remove_file(bench.path("part.json")).unwrap();
        std::fs::remove_file(bench.path("rest.json")).unwrap();
    }
    let text = String::from_utf8(bench.read("layer.json")).unwrap().replace("\"blk.0.attn_q", "\"blk.9.attn_q");
    bench.write("other.json", text.as_bytes());
    bench.fails(&format!("{recipe} --sensitivity other.json"), &["other.json", "another model", "blk.9.attn_q"]);
    bench.fails(&format!("{args} --by layer --shard 6/6 -o none.json"), &["--shard 6/6 has no layers"]);
}

#[test]
fn sensitivity_refuses_bad_input_with_one_error() {
    let bench = Bench::new(&["llama", "qwen3moe"]);
    for name in ["llama", "qwen3moe"] {
        let golden = format!("{}/tests/data/collect/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        bench.write(&format!("{name}.imatrix.gguf"), &std::fs::read(golden).unwrap());
    }
    quantize(&bench, "q4.gguf", DType::Q4_0);
    let args = |model: &str, matrix: &str| format!("sensitivity {model}.gguf {matrix}.gguf -f calibration.txt -c 64");
    for (args, says) in [
        (args("q4", "llama.imatrix"), &["q4.gguf", "already quantized", "q4_0", "hint:"][..]),
        (args("llama", "qwen3moe.imatrix"), &["qwen3moe.imatrix.gguf", "another model"]),
        (args("llama.imatrix", "llama.imatrix"), &["llama.imatrix.gguf", "is not a model"]),
        (args("llama", "none"), &["none.gguf"]),
        (args("llama", "llama.imatrix") + " --type q9_K", &["q9_K", "unknown type"]),
        (args("llama", "llama.imatrix") + " --by expert", &["--by", "layer"]),
        (args("llama", "llama.imatrix") + " -f none.txt", &["none.txt"]),
    ] {
        bench.fails(&args, says);
    }
}

#[test]
fn weights_without_an_entry_are_left_out_for_types_that_require_one() {
    let bench = Bench::new(&[]);
    // Its rows consist of blocks of 256, as these types need.
    let model = format!("{}/assets/quickstart/quickstart.gguf", env!("CARGO_MANIFEST_DIR"));
    bench.ok(&format!("-m {model} -f calibration.txt -c 64 -b 64 --chunks 2 --no-ppl -t 1 -o m.gguf"));
    let args = format!("sensitivity {model} m.gguf -f calibration.txt -c 64 --tokens 64 -t 1 --type iq2_xxs");
    let ran = bench.ok(&format!("{args} --shard 1/14 -o s.json"));
    let says = "2 weights are left out: iq2_xxs requires an entry in the matrix";
    assert!(ran.stderr.contains(says) && ran.stderr.contains("measuring 2 weights"), "{}", ran.stderr);
    let file = json(std::str::from_utf8(&bench.read("s.json")).unwrap());
    assert!(file["weights"].as_object().unwrap().values().all(|weight| weight["type"] == "iq2_xxs"), "{file}");
}

#[test]
fn sensitivities_do_not_depend_on_order_shards_or_interruptions() {
    let bench = Bench::new(&["llama"]);
    let golden = format!("{}/tests/data/collect/llama.gguf", env!("CARGO_MANIFEST_DIR"));
    bench.write("m.gguf", &std::fs::read(golden).unwrap());
    let args = "sensitivity llama.gguf m.gguf -f calibration.txt -c 64 --tokens 256 -t 1 --type q4_K";
    bench.ok(&format!("{args} -o whole.json"));
    let whole = json(std::str::from_utf8(&bench.read("whole.json")).unwrap());
    let weights = whole["weights"].as_object().unwrap();
    assert_eq!(weights.len(), 3 * 7 + 2);
    for (name, weight) in weights {
        assert_eq!(weight["type"], "q5_0", "what q4_K falls back to");
        assert!(
            weight["error"].as_f64().unwrap() > 0.0 && weight["divergence"].as_f64().unwrap() > 0.0,
            "{name}: {weight}"
        );
    }
    // Each part begins with an unchanged model: equal numbers show that the weights before were restored.
    bench.ok(&format!("{args} -o a.json --shard 1/2"));
    bench.ok(&format!("{args} -o b.json --shard 2/2"));
    let mut parts = BTreeMap::new();
    for name in ["a.json", "b.json"] {
        let part = json(std::str::from_utf8(&bench.read(name)).unwrap());
        parts.extend(part["weights"].as_object().unwrap().clone());
    }
    assert_eq!(parts.into_iter().collect::<serde_json::Map<_, _>>(), *weights);
    // A file that lacks weights is continued.
    let cut = String::from_utf8(bench.read("a.json")).unwrap();
    bench.write("c.json", cut.as_bytes());
    bench.ok(&format!("{args} -o c.json"));
    assert!(bench.read("c.json") == bench.read("whole.json"), "a continued file has the bytes of a whole run");

    let recipe = "recipe llama.gguf m.gguf --bpw 6 --format json";
    let measured = bench.ok(&format!("{recipe} --sensitivity a.json --sensitivity b.json")).stdout;
    assert_eq!(measured, bench.ok(&format!("{recipe} --sensitivity whole.json")).stdout);
    assert_ne!(measured, bench.ok(recipe).stdout);

    bench.fails(
        &format!("{} -o whole.json", args.replace("--tokens 256", "--tokens 128")),
        &["whole.json", "another measurement", "hint:"],
    );
    bench.fails(&format!("{args} -o m.gguf"), &["m.gguf"]);
    bench.fails(&format!("{args} -o calibration.txt"), &["calibration.txt"]);
    bench.fails(&format!("{args} --shard 3/2"), &["I/N"]);
    bench.fails(&format!("{recipe} --sensitivity m.gguf"), &["m.gguf"]);
    bench.write("other.json", String::from_utf8(bench.read("a.json")).unwrap().replace("blk.0.", "blk.9.").as_bytes());
    bench.fails(&format!("{recipe} --sensitivity other.json"), &["other.json", "another model", "blk.9."]);
}

#[test]
fn weights_of_a_loaded_model_are_exchanged_and_restored() {
    let bench = Bench::new(&["llama", "gemma3"]);
    for name in ["llama", "gemma3"] {
        let path = bench.path(&format!("{name}.gguf"));
        let file = File::open(&path).unwrap();
        let mut model = EditableModel::load(&path, &ModelOptions::default()).unwrap();
        for tensor in file.tensors().filter(|t| t.n_dims > 1) {
            assert!(model.read(tensor.name).is_some_and(|bytes| bytes == tensor.data), "{}", tensor.name);
            let changed: Vec<u8> = tensor.data.iter().map(|byte| byte ^ 1).collect();
            assert!(model.write(tensor.name, &changed));
            assert!(model.read(tensor.name).is_some_and(|bytes| bytes == changed));
            assert!(!model.write(tensor.name, &changed[1..]), "another size is refused");
            assert!(model.write(tensor.name, tensor.data));
        }
        assert!(!model.has("none") && !model.write("none", &[]) && model.read("none").is_none());
    }
}
