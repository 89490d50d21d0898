//! `check`, filled experts, and tables by expert.

use std::collections::BTreeSet;
use std::path::Path;

use llama_imatrix::imatrix::Imatrix;

use super::*;

/// A folder with a model whose expert 5 of layer 1 sees no token, and its golden matrix.
fn bench() -> Bench {
    let bench = Bench::new(&["qwen3moe"]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/collect/qwen3moe.gguf");
    bench.write("matrix.gguf", &std::fs::read(golden).unwrap());
    bench
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_exit_code_is_the_verdict() {
    let bench = bench();
    let gaps = bench.run("check qwen3moe.gguf matrix.gguf");
    assert_eq!(gaps.code, Some(2), "{gaps:?}");
    assert!(
        gaps.stdout.contains("layer 1, 8 experts, ffn_gate_exps, ffn_up_exps, ffn_down_exps: no token 5"),
        "{gaps:?}"
    );
    assert!(gaps.stdout.lines().last().unwrap().starts_with("will do, with gaps: "), "{gaps:?}");

    bench.ok("merge matrix.gguf -o filled.gguf --fill-experts layer");
    let filled = bench.ok("check qwen3moe.gguf filled.gguf --min-tokens 0 --type iq2_xxs");
    assert!(filled.stdout.contains("3 experts in 3 weights were filled"), "{filled:?}");
    assert!(filled.stdout.lines().last().unwrap().starts_with("will do for IQ2_XXS: "), "{filled:?}");

    bench.write("llama.gguf", &support::build("llama"));
    let other = bench.run("check llama.gguf matrix.gguf");
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.stdout.lines().last().unwrap().starts_with("will not do: "), "{other:?}");
    bench.fails("check matrix.gguf qwen3moe.gguf", &["\"imatrix\", expected \"model\""]);
    bench.fails("check qwen3moe.gguf qwen3moe.gguf", &["not an importance matrix"]);
    bench.fails("check qwen3moe.gguf none.gguf", &["none.gguf"]);
    bench.fails("check qwen3moe.gguf matrix.gguf --type Q9", &["Q9", "IQ2_XXS"]);
}

/// Asserts that an object has the properties of a schema, and so on for what is in it.
fn has_keys(value: &serde_json::Value, schema: &serde_json::Value, place: &str) {
    let keys = |value: &serde_json::Value| -> BTreeSet<String> {
        value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let schema = schema.get("anyOf").map_or(schema, |any| if value.is_null() { &any[0] } else { &any[1] });
    if let Some(properties) = schema.get("properties") {
        assert_eq!(keys(value), keys(properties), "{place}");
        value.as_object().unwrap().iter().for_each(|(key, value)| has_keys(value, &properties[key], key));
    }
    for item in value.as_array().into_iter().flatten() {
        has_keys(item, &schema["items"], place);
    }
}

#[test]
fn check_as_json_has_the_schemas_keys() {
    let bench = bench();
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check.schema.json")).unwrap();
    for args in ["", "--type IQ2_XXS", "--min-tokens 100000"] {
        let ran = bench.run(&format!("check qwen3moe.gguf matrix.gguf --format json {args}"));
        let document = json(&ran.stdout);
        has_keys(&document, &json(&file), "document");
        assert_eq!(document["exit_code"].as_i64(), ran.code.map(i64::from));
        assert!(!document["experts"].as_array().unwrap().is_empty());
    }
}

#[test]
fn filling_in_a_run_and_in_a_merge_gives_the_same_bytes() {
    let bench = bench();
    let run = "-m qwen3moe.gguf -f calibration.txt -c 64 --chunks 4";
    bench.ok(&format!("{run} -o plain.gguf"));
    bench.ok(&format!("{run} -o run.gguf --fill-experts layer --fill-below 40"));
    bench.ok("merge plain.gguf -o merged.gguf --fill-experts layer --fill-below 40");
    assert!(bench.read("run.gguf") == bench.read("merged.gguf"));
    bench.ok("--in-file plain.gguf -o combined.gguf --fill-experts layer --fill-below 40");
    assert!(bench.read("combined.gguf") == bench.read("merged.gguf"));

    // A run that starts from a filled matrix keeps its list.
    bench.ok(&format!("{run} --chunk 4 --in-file run.gguf -o more.gguf"));
    assert_eq!(
        Imatrix::read(bench.path("more.gguf")).unwrap().filled,
        Imatrix::read(bench.path("run.gguf")).unwrap().filled
    );

    let (plain, filled) =
        (Imatrix::read(bench.path("plain.gguf")).unwrap(), Imatrix::read(bench.path("run.gguf")).unwrap());
    let name = "blk.1.ffn_down_exps.weight";
    assert!(plain.filled.is_empty() && filled.filled[name].contains_key(&5));
    assert_eq!((plain.entries[name].counts[5], filled.entries[name].counts[5]), (0, 1));
    assert_ne!(plain.entries[name].sum2, filled.entries[name].sum2);
    for (name, entry) in plain.entries.iter().filter(|(name, _)| !filled.filled.contains_key(*name)) {
        assert_eq!(entry, &filled.entries[name], "{name}");
    }
    bench.fails(&format!("{run} -o x.gguf --fill-below 3"), &["--fill-below requires --fill-experts layer"]);
    bench.fails("merge plain.gguf -o x.gguf --fill-below 3", &["--fill-below requires --fill-experts layer"]);
    bench.fails(
        &format!("{run} -o x.state --shard 0/2 --accumulate f64 --fill-experts layer"),
        &["--fill-experts cannot be combined with --shard", "hint: "],
    );
}

#[test]
fn expert_tables_name_unseen_and_filled_experts() {
    let bench = bench();
    let row = "1,blk.1.ffn_down_exps.weight,5,";
    let line = |text: &str| text.lines().find(|line| line.contains(row)).map(str::to_owned).unwrap_or_default();
    let csv = bench.ok("stats matrix.gguf --by expert --format csv").stdout;
    assert!(line(&csv).ends_with(",unseen"), "{csv}");
    bench.ok("merge matrix.gguf -o filled.gguf --fill-experts layer");
    let filled = bench.ok("stats filled.gguf --by expert --format csv");
    assert!(line(&filled.stdout).ends_with(",filled"), "{}", filled.stdout);
    let compared = bench.ok("compare filled.gguf matrix.gguf --by expert --format csv").stdout;
    assert!(line(&compared).ends_with(",unseen in B"), "{compared}");
    let table = bench.ok("compare filled.gguf matrix.gguf --by expert --tensor ffn_up_exps").stdout;
    assert!(table.starts_with("Experts of matrix.gguf (B) against filled.gguf (A)"), "{table}");
    let document = json(&bench.ok("stats filled.gguf --by expert --format json").stdout);
    assert_eq!(document["files"][0]["filled"]["blk.1.ffn_down_exps.weight"], serde_json::json!([5]));
    assert_eq!(document["files"][0]["experts"].as_array().unwrap().len(), 3 * 3 * 8);
    bench.ok("report filled.gguf -o page.html");
    assert!(String::from_utf8(bench.read("page.html")).unwrap().contains("3 experts in 3 weights were filled"));
}
