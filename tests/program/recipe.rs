//! `recipe`: types per weight at a size. `scripts/check-recipe.sh` compares the sizes with what llama-quantize writes.

use std::collections::BTreeMap;

use llama_imatrix::gguf::{DType, File, Value, Writer};

use super::Bench;

/// A folder with test models and their matrices, `NAME.gguf` and `NAME.imatrix.gguf`.
fn bench(models: &[&str]) -> Bench {
    let bench = Bench::new(models);
    for name in models {
        let golden = format!("{}/tests/data/collect/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        bench.write(&format!("{name}.imatrix.gguf"), &std::fs::read(golden).unwrap());
    }
    bench
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Type per weight.
fn types(document: &serde_json::Value) -> BTreeMap<String, String> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let rows = document["tensors"].as_array().unwrap();
    rows.iter().map(|row| (text(&row["tensor"]), text(&row["type"]))).collect()
}

#[test]
fn recipes_keep_to_the_budget_and_spend_more_where_there_is_more() {
    let bench = bench(&["llama", "qwen3moe"]);
    for model in ["llama", "qwen3moe"] {
        let mut last = f64::INFINITY;
        for bpw in ["5", "6", "7.5"] {
            let args =
                format!("recipe {model}.gguf {model}.imatrix.gguf --bpw {bpw} --format json -o {model}-{bpw}.txt");
            let document = json(&bench.ok(&args).stdout);
            let bits = document["bits_per_weight"].as_f64().unwrap();
            assert!(bits <= bpw.parse().unwrap() && bits > bpw.parse::<f64>().unwrap() - 0.3, "{model} {bpw}: {bits}");
            let cost = document["cost"].as_f64().unwrap();
            assert!(cost < last && cost >= document["cost_bound"].as_f64().unwrap() && document["is_optimal"] == true);
            last = cost;

            let types = types(&document);
            let file = String::from_utf8(bench.read(&format!("{model}-{bpw}.txt"))).unwrap();
            assert_eq!(file.lines().count(), types.len());
            for (name, dtype) in &types {
                let line = format!("^{}$={dtype}", name.replace('.', r"\."));
                assert!(file.lines().any(|found| found == line), "no '{line}' in\n{file}");
                if name.contains(".ffn_up") {
                    assert_eq!(
                        Some(dtype),
                        types.get(&name.replace("ffn_up", "ffn_gate")),
                        "{name} is fused with its gate"
                    );
                }
            }
            assert!(types.contains_key("token_embd.weight") && types.contains_key("output.weight"));
            assert!(!types.keys().any(|name| name.contains("norm") || name.contains("ffn_gate_inp")));
        }
    }
}

#[test]
fn sizes_in_bytes_count_the_whole_file() {
    let bench = bench(&["llama"]);
    let document =
        |args: &str| json(&bench.ok(&format!("recipe llama.gguf llama.imatrix.gguf --format json {args}")).stdout);
    let by_bits = document("--bpw 6");
    let bytes = by_bits["file_bytes"].as_u64().unwrap();
    assert!(document(&format!("--size {bytes}"))["file_bytes"].as_u64().unwrap() <= bytes);
    // Padding may make another mix of the same size better, never a worse one necessary.
    let (a, b) = (document(&format!("--size {bytes}")), &by_bits);
    assert!(a["cost"].as_f64().unwrap() <= b["cost"].as_f64().unwrap());
    assert!(document(&format!("--size {}", bytes - 1))["file_bytes"].as_u64().unwrap() < bytes);
}

#[test]
fn constraints_are_kept() {
    let bench = bench(&["llama"]);
    let document =
        |args: &str| json(&bench.ok(&format!("recipe llama.gguf llama.imatrix.gguf --format json {args}")).stdout);
    // A little more than the smallest mix, which the error for a smaller budget names.
    let keep = "--keep output.weight=f16 --keep blk.*.attn_?.weight=q8_0 --keep blk.1.*=Q4_0";
    let error =
        bench.fails(&format!("recipe llama.gguf llama.imatrix.gguf --bpw 1 {keep}"), &["below the smallest"]).stderr;
    let smallest =
        error.split("which has ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok()).unwrap();
    let kept = types(&document(&format!("--bpw {:.4} {keep}", smallest + 0.3)));
    assert_eq!(kept["output.weight"], "f16");
    assert_eq!((kept["blk.0.attn_q.weight"].as_str(), kept["blk.1.attn_q.weight"].as_str()), ("q8_0", "q8_0"));
    assert_eq!(kept["blk.1.ffn_down.weight"], "q4_0", "the first match counts, then the next");
    // 64 columns: what q4_K and q6_K fall back to.
    let some = types(&document("--bpw 6.5 --types q4_K,q6_K"));
    assert!(some.values().all(|t| t == "q5_0" || t == "q8_0"), "{some:?}");
    let limited = types(&document("--bpw 5.4 --types q4_0,q4_1,q5_0,q5_1,q8_0 --min-type q4_1 --max-type q5_1"));
    assert!(limited.values().all(|t| ["q4_1", "q5_0", "q5_1"].contains(&t.as_str())), "{limited:?}");
}

#[test]
fn same_input_gives_the_same_bytes_on_any_number_of_threads() {
    let bench = bench(&["qwen3moe"]);
    let args = "recipe qwen3moe.gguf qwen3moe.imatrix.gguf --bpw 6 --format json";
    let first = bench.ok(&format!("{args} --rows 16 -t 1")).stdout;
    assert_eq!(bench.ok(&format!("{args} --rows 16 -t 3")).stdout, first);
    assert_ne!(bench.ok(&format!("{args} --rows 16 --seed 1")).stdout, first, "other rows");
    // A sample's errors are those of all rows, but for its size.
    let power = |text: &str| -> Vec<f64> {
        json(text)["tensors"].as_array().unwrap().iter().map(|row| row["error"].as_f64().unwrap()).collect()
    };
    let exact = power(&bench.ok(&format!("{args} --exact --types q4_0,q8_0")).stdout);
    assert!(exact.iter().all(|error| *error > 0.0 && *error < 0.1), "{exact:?}");
}

#[test]
fn split_models_and_other_files_of_a_recipe() {
    let bench = bench(&["llama"]);
    let whole = bench.read("llama.gguf");
    let file = File::from_bytes(whole).unwrap();
    let tensors: Vec<_> = file.tensors().collect();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    for (number, part) in [(0_u16, first), (1, second)] {
        let mut writer = Writer::new();
        if number == 0 {
            file.keys().for_each(|(key, value)| {
                writer.set(key, value.clone());
            });
        }
        writer.set("split.no", number).set("split.count", 2_u16).set("split.tensors.count", tensors.len() as i32);
        for t in part {
            writer.tensor(t.name, t.dtype, &t.shape[..t.n_dims], t.data).unwrap();
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        bench.write(&format!("m-{:05}-of-00002.gguf", number + 1), &bytes);
    }
    let numbers = |model: &str| {
        let document = json(&bench.ok(&format!("recipe {model} llama.imatrix.gguf --bpw 6 --format json")).stdout);
        (document["file_bytes"].clone(), document["cost"].clone(), types(&document))
    };
    assert_eq!(numbers("m-00001-of-00002.gguf"), numbers("llama.gguf"));

    let ran = bench.ok("recipe llama.gguf llama.imatrix.gguf --bpw 6 -o t.txt --custom-q q.txt --curve c.csv");
    let command = "llama-quantize --imatrix llama.imatrix.gguf --tensor-type-file t.txt llama.gguf llama-";
    assert!(ran.stdout.contains(command), "{}", ran.stdout);
    let lines = String::from_utf8(bench.read("t.txt")).unwrap();
    assert_eq!(bench.read("q.txt"), (lines.trim_end().replace('\n', ",") + "\n").as_bytes());
    let curve = String::from_utf8(bench.read("c.csv")).unwrap();
    let numbers = |line: &str| line.split(',').map(|x| x.parse().unwrap()).collect::<Vec<f64>>();
    let points: Vec<Vec<f64>> = curve.lines().skip(1).map(numbers).collect();
    let falls = |a: &Vec<f64>, b: &Vec<f64>| a[0] < b[0] && a[1] < b[1] && a[2] >= b[2];
    assert!(points.len() > 10 && points.is_sorted_by(falls), "{curve}");
    // The recipe lies on the curve or just above it: at most a step of it away.
    let document = json(&bench.ok("recipe llama.gguf llama.imatrix.gguf --bpw 6 --format json").stdout);
    let (bits, cost) = (document["bits_per_weight"].as_f64().unwrap(), document["cost"].as_f64().unwrap());
    let next = points.partition_point(|point| point[1] < bits);
    let step = cost >= points[next][2] && cost <= points[next.saturating_sub(2)][2];
    assert!(step, "{bits} bits cost {cost}, the curve has {:?}", &points[next.saturating_sub(2)..=next]);
    let ran = bench.ok("report llama.imatrix.gguf --recipe-curve c.csv -o page.html --png pictures");
    assert!(ran.stderr.contains("pictures") && bench.path("pictures/recipes.png").exists(), "{}", ran.stderr);
    let page = String::from_utf8(bench.read("page.html")).unwrap();
    let first = &curve.lines().nth(1).unwrap().split(',').next().unwrap();
    assert!(page.contains(&format!(r#""recipes":[{{"name":"c.csv","bytes":[{first},"#)), "{first}");
    bench
        .fails("report llama.imatrix.gguf --recipe-curve t.txt -o none.html", &["t.txt", "line 1", "expected 'bytes,"]);
    bench.fails("report llama.imatrix.gguf --recipe-curve c.csv -o c.csv", &["c.csv"]);
    bench.ok("recipe llama.gguf llama.imatrix.gguf --bpw 6 -o t.txt --custom-q q.txt --curve c.csv");
}

/// A copy of the test model with something changed.
fn changed(bench: &Bench, name: &str, change: impl Fn(&str) -> Option<(DType, u8)>) {
    let file = File::from_bytes(bench.read("llama.gguf")).unwrap();
    let mut writer = Writer::new();
    file.keys().for_each(|(key, value)| {
        writer.set(key, value.clone());
    });
    for t in file.tensors() {
        let shape = &t.shape[..t.n_dims];
        match change(t.name) {
            None => writer.tensor(t.name, t.dtype, shape, t.data).unwrap(),
            Some((dtype, byte)) => {
                let bytes = vec![byte; dtype.bytes_for(t.elements()).unwrap() as usize];
                writer.tensor(t.name, dtype, shape, bytes).unwrap()
            }
        };
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bench.write(name, &bytes);
}

#[test]
fn bad_input_gives_one_clear_error() {
    let bench = bench(&["llama", "qwen3moe"]);
    changed(&bench, "quantized.gguf", |name| (name == "blk.1.attn_q.weight").then_some((DType::Q4_0, 0)));
    changed(&bench, "nan.gguf", |name| (name == "blk.1.attn_q.weight").then_some((DType::F32, 0xff)));
    bench.write("none.txt", b"my notes\n");
    let usual = "recipe llama.gguf llama.imatrix.gguf";
    for (args, says) in [
        (
            "recipe quantized.gguf llama.imatrix.gguf --bpw 6",
            &["already quantized", "blk.1.attn_q.weight", "q4_0", "hint:"][..],
        ),
        ("recipe nan.gguf llama.imatrix.gguf --bpw 6", &["nan.gguf", "blk.1.attn_q.weight", "finite"]),
        ("recipe llama.gguf qwen3moe.imatrix.gguf --bpw 6", &["qwen3moe.imatrix.gguf", "another model"]),
        ("recipe qwen3moe.gguf llama.imatrix.gguf --bpw 6", &["llama.imatrix.gguf", "another model"]),
        ("recipe llama.imatrix.gguf llama.imatrix.gguf --bpw 6", &["is not a model"]),
        ("recipe none.gguf llama.imatrix.gguf --bpw 6", &["none.gguf"]),
        ("recipe llama.gguf none.gguf --bpw 6", &["none.gguf"]),
        (usual, &["--bpw", "--size"]),
        (&format!("{usual} --bpw 6 --size 1MB"), &["cannot be used with"]),
        (&format!("{usual} --bpw 2"), &["--bpw 2 is below the smallest mix", "bits per weight", "hint:"]),
        (&format!("{usual} --size 10KiB"), &["below the smallest mix", "bytes"]),
        (&format!("{usual} --bpw 12"), &["above the largest mix", "nothing to choose"]),
        (&format!("{usual} --size 12 parsecs"), &["unexpected"]),
        (&format!("{usual} --bpw 6 --types q9_K"), &["q9_K", "unknown type"]),
        (&format!("{usual} --bpw 6 --min-type q8_0 --max-type q4_K"), &["leave no type"]),
        (&format!("{usual} --bpw 6 --keep nothing.*=q8_0"), &["nothing.*", "no tensor"]),
        (&format!("{usual} --bpw 6 --keep output.weight"), &["PATTERN=TYPE"]),
        (&format!("{usual} --bpw 6 --keep output.weight=q6_K"), &["output.weight", "64 columns"]),
        (&format!("{usual} --bpw 6 -o llama.gguf"), &["llama.gguf"]),
        (&format!("{usual} --bpw 6 -o none.txt"), &["none.txt", "does not begin with", "hint:"]),
        (&format!("{usual} --bpw 6 -o a.txt --custom-q a.txt"), &["same file"]),
    ] {
        bench.fails(args, says);
    }
}

#[test]
fn a_q8_0_source_is_requantized_and_what_stays_costs_nothing() {
    let bench = bench(&["llama"]);
    // All zero: any type has the same values.
    changed(&bench, "q8.gguf", |name| name.contains("attn_q").then_some((DType::Q8_0, 0)));
    let document = json(&bench.ok("recipe q8.gguf llama.imatrix.gguf --bpw 6 --format json").stdout);
    assert!(document["command"].as_array().unwrap().iter().any(|word| word == "--allow-requantize"));
    let value = File::from_bytes(bench.read("q8.gguf"))
        .unwrap()
        .get("general.architecture")
        .and_then(Value::as_str)
        .map(str::to_owned);
    assert_eq!(value.as_deref(), Some("llama"));
    let row =
        |name: &str| document["tensors"].as_array().unwrap().iter().find(|row| row["tensor"] == name).unwrap().clone();
    assert_eq!(row("blk.0.attn_q.weight")["from"], "q8_0");
    assert_eq!(row("blk.0.attn_q.weight")["cost_share"].as_f64(), Some(0.0));
}
