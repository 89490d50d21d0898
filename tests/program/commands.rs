//! `stats`, `compare` and `report`, on real files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Bench, run};
/// A file of `tests/data`.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder with the golden matrices named.
fn bench(files: &[&str]) -> Bench {
    let bench = Bench::new(&[]);
    for file in files {
        let name = file.rsplit('/').next().unwrap();
        bench.write(name, &std::fs::read(data(file)).unwrap());
    }
    bench
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Keys of an object, and of those in a schema's `properties`.
fn keys(value: &serde_json::Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn stats_as_json_has_the_schemas_keys_and_upstreams_numbers() {
    let bench = bench(&["collect/qwen3moe.gguf"]);
    let document = json(&bench.ok("stats qwen3moe.gguf --format json").stdout);
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stats.schema.json")).unwrap();
    let schema = json(&file);
    let in_file = &schema["properties"]["files"]["items"]["properties"];
    assert_eq!(keys(&document), keys(&schema["properties"]));
    // Only with --by expert, with filled experts, with a convergence file and with a lens file.
    let without = |value: &serde_json::Value, sometimes: &[&str]| -> BTreeSet<String> {
        keys(value).into_iter().filter(|key| !sometimes.contains(key)).map(str::to_owned).collect()
    };
    let in_files = without(in_file, &["experts", "filled", "shown", "convergence", "lens"]);
    assert_eq!(without(&document["files"][0], &[]), in_files);
    for part in ["tensors", "layers"] {
        let rows = document["files"][0][part].as_array().unwrap();
        let in_rows = without(&in_file[part]["items"]["properties"], &["halves_cosine", "relative_error"]);
        assert_eq!(without(&rows[0], &[]), in_rows, "{part}");
    }
    // What upstream wrote into the file beside the sums.
    let golden = llama_imatrix::gguf::File::open(data("collect/qwen3moe.gguf")).unwrap();
    let mut compared = 0;
    for row in document["files"][0]["tensors"].as_array().unwrap() {
        let name = format!("{}.stats", row["tensor"].as_str().unwrap());
        let values = golden.tensor(&name).unwrap().to_f32().unwrap();
        for (key, value) in llama_imatrix::stats::SCHEMA.iter().zip(values.iter()) {
            match row[key].as_f64() {
                Some(found) => assert_eq!((found as f32).to_bits(), value.to_bits(), "{key} of {name}"),
                None => assert!(value.is_nan(), "{key} of {name}"),
            }
            compared += 1;
        }
    }
    assert!(compared > 100);
}

#[test]
fn stats_can_be_selected_sorted_and_printed_in_other_formats() {
    let bench = bench(&["collect/qwen3moe.gguf", "formats/dense.dat"]);
    let csv = bench.ok("stats qwen3moe.gguf --format csv --sort h_norm --ascending --tensor *exps* --layer 0-1").stdout;
    let mut lines = csv.lines();
    let at = lines.next().unwrap().split(',').position(|key| key == "h_norm").unwrap();
    let found: Vec<f64> = lines.map(|line| line.split(',').nth(at).unwrap().parse().unwrap()).collect();
    assert!(found.len() > 2 && found.is_sorted(), "{found:?}");
    assert!(csv.lines().skip(1).all(|line| line.contains("_exps")));

    // A legacy file has no sums of activations.
    let table = bench.ok("stats dense.dat --columns mean_to_rms --by tensor").stdout;
    assert!(table.lines().nth(4).unwrap().ends_with(" -"), "{table}");
    let markdown = bench.ok("stats qwen3moe.gguf dense.dat --format markdown").stdout;
    assert_eq!(markdown.matches("## Weights of").count(), 2);

    // Weights that read the same input are one row for people, and each a row for programs.
    let table = bench.ok("stats qwen3moe.gguf --by tensor").stdout;
    assert!(
        table.contains("blk.0.attn_{k,q,v}.weight") && table.contains("blk.0.ffn_{gate,up}_exps.weight"),
        "{table}"
    );
    assert!(csv.contains("blk.0.ffn_up_exps.weight") && csv.contains("blk.0.ffn_gate_exps.weight"));
    // Titles of the table name statistics, too.
    let by = |sort: &str| bench.ok(&format!("stats qwen3moe.gguf --format csv --sort {sort}")).stdout;
    assert_eq!(by("cossim"), by("CosSim"));

    // A file gets what standard output would; an input is never replaced.
    bench.ok("stats qwen3moe.gguf -o stats.txt --by tensor");
    assert_eq!(bench.read("stats.txt"), table.as_bytes());
    let before = bench.read("qwen3moe.gguf");
    bench.fails("stats qwen3moe.gguf -o qwen3moe.gguf", &["qwen3moe.gguf", "--output"]);
    assert!(bench.read("qwen3moe.gguf") == before);

    bench.fails("stats qwen3moe.gguf --sort beauty", &["beauty", "h_norm"]);
    bench.fails("stats qwen3moe.gguf --columns beauty", &["beauty", "h_norm"]);
    bench.fails("stats qwen3moe.gguf --layer 77", &["no weight"]);
    bench.fails("stats none.gguf", &["none.gguf"]);
    bench.fails("stats", &["FILE"]);
}

#[test]
fn compare_tells_equal_from_different() {
    let bench =
        bench(&["collect/llama.gguf", "collect/qwen3moe.gguf", "formats/dense.gguf", "formats/dense-nosum.gguf"]);
    bench.ok("compare llama.gguf llama.gguf --fail-above 0");
    // Matrices of different models: what can be compared is, the rest is counted, and a warning says so.
    let ran = bench.ok("compare llama.gguf qwen3moe.gguf");
    assert!(ran.stdout.contains("Not compared, not in A: ") && !ran.stdout.contains("nan"), "{}", ran.stdout);
    assert!(ran.stderr.contains("probably of different models"), "{}", ran.stderr);
    let document = json(&bench.ok("compare llama.gguf qwen3moe.gguf --format json --metric rel-l2").stdout);
    let rows = document["comparisons"][0]["tensors"].as_array().unwrap();
    let differences: Vec<f64> = rows.iter().filter_map(|row| row["relative_l2"].as_f64()).collect();
    assert!(differences.len() > 1 && differences.is_sorted_by(|a, b| a >= b), "{differences:?}");
    assert!(rows[0]["note"].as_str().is_some_and(|note| !note.is_empty()), "what cannot be compared comes first");

    let ran = bench.run("compare llama.gguf qwen3moe.gguf --fail-above 0.5");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("Weights of") && ran.stderr.contains("expected at most 0.5"), "{}", ran.stderr);
    bench.fails("compare llama.gguf dense.gguf", &["different models"]);
    bench.fails("compare llama.gguf", &["FILE"]);
    bench.fails("compare llama.gguf llama.gguf --fail-above -1", &["0 or more"]);
}

#[test]
fn report_writes_a_page_and_images() {
    let bench = bench(&["collect/qwen3moe.gguf", "collect/llama.gguf", "report/first.lens.json"]);
    std::fs::rename(bench.path("first.lens.json"), bench.path("qwen3moe.lens.json")).unwrap();
    bench.ok("report qwen3moe.gguf llama.gguf --png pictures -o page.html");
    let page = String::from_utf8(bench.read("page.html")).unwrap();
    assert!(page.contains("\"sum_check\"") && page.contains("blk.0.ffn_down_exps.weight"));
    let again = bench.ok("report qwen3moe.gguf llama.gguf -o again.html");
    assert!(again.stdout.is_empty());
    assert_eq!(bench.read("again.html"), page.as_bytes(), "same input, same bytes");
    for picture in ["1-lens", "1-prism", "1-similarity", "1-experts", "2-heatmap-h_norm", "layers-cossim", "channels"] {
        assert_eq!(&bench.read(&format!("pictures/{picture}.png"))[1..4], b"PNG");
    }

    // A broken lens file is told and left out; a matrix is never overwritten.
    bench.write("qwen3moe.lens.json", b"{}");
    let ran = bench.ok("report qwen3moe.gguf");
    assert!(ran.stderr.contains("left out") && !bench.read("report.html").is_empty(), "{}", ran.stderr);
    bench.fails("report qwen3moe.gguf -o qwen3moe.gguf", &["is read by report and would be overwritten by --output"]);
    bench.fails("report qwen3moe.gguf --png p --tensor none", &["none"]);
}

#[test]
fn undefined_statistics_are_shown_as_undefined() {
    use llama_imatrix::imatrix::{Entry, Format, Imatrix};
    let bench = Bench::new(&[]);
    let mut matrix = Imatrix { chunk_size: 512, ..Imatrix::default() };
    let entry = |sum2: &[f32], counts: &[i64]| Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() };
    matrix.entries.insert("blk.0.a.weight".into(), entry(&[1.0, f32::NAN], &[1]));
    matrix.entries.insert("blk.0.e.weight".into(), entry(&[1.0, 2.0], &[1, 0]));
    matrix.entries.insert("blk.0.n.weight".into(), entry(&[f32::NAN], &[1]));
    let mut bytes = Vec::new();
    matrix.write(&mut bytes, Format::Gguf).unwrap();
    bench.write("odd.gguf", &bytes);
    matrix.entries.retain(|name, _| name.contains(".n."));
    let mut bytes = Vec::new();
    matrix.write(&mut bytes, Format::Gguf).unwrap();
    bench.write("silent.gguf", &bytes);

    let ran = bench.ok("stats odd.gguf");
    assert!(!ran.stdout.contains("nan") && ran.stderr.contains("not finite"), "{}\n{}", ran.stdout, ran.stderr);
    bench.ok("report odd.gguf silent.gguf --png pictures -o page.html");
    assert_eq!(bench.run("compare odd.gguf odd.gguf --fail-above 0.1").code, Some(1), "NaN is no agreement");
    bench.fails("stats silent.gguf", &["holds no data"]);
    bench.fails("compare odd.gguf silent.gguf", &["no data"]);
}

#[test]
fn each_command_has_its_help() {
    let bench = Bench::new(&[]);
    let general = bench.ok("--help").stdout;
    for command in ["stats", "compare", "report"] {
        assert!(general.contains(&format!("\n  {command} FILE")), "{command}");
        let ran = run(bench.command(command).arg("--help"));
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("FILE"), "{}", ran.stdout);
    }
    // Only in first place: anywhere else it is an argument that llama.cpp's tool does not know.
    assert_eq!(bench.run("--verbose stats").code, Some(1));
}
