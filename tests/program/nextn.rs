//! `--nextn` and `--model-draft`.

use std::collections::BTreeMap;

use llama_imatrix::imatrix::{Imatrix, Loaded};

use crate::golden::assert_same;

use super::*;

/// The NextN layer's number in all the test models.
const LAYER: &str = "blk.2.";
const TEXT: &str = "-f calibration.txt -c 64 -b 64 --chunks 3 -t 1";

impl Bench {
    fn loaded(&self, name: &str) -> Loaded {
        Imatrix::load(self.path(name)).unwrap()
    }
}

fn nextn_weights(imatrix: &Loaded) -> Vec<&str> {
    imatrix.entries.keys().filter_map(|name| name.strip_prefix(LAYER)).collect()
}

#[test]
fn nextn_sums_equal_those_of_llama_cpps_tool() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nextn");
    let bench = Bench::new(&["nextn", "nextn-hybrid", "nextn-trunk", "draft-head"]);
    bench.write("calibration.txt", support::calibration().as_bytes());
    for (name, args) in [
        ("whole", "-m nextn.gguf --nextn -b 128"),
        ("parts", "-m nextn.gguf --nextn -b 48"),
        ("hybrid", "-m nextn-hybrid.gguf --nextn -b 64"),
        ("pair", "-m nextn-trunk.gguf --model-draft draft-head.gguf -b 64 --process-output"),
    ] {
        let ran = bench.ok(&format!("{args} -f calibration.txt -c 128 --chunks 4 -t 2 -o {name}.gguf"));
        let (found, want) = (bench.loaded(&format!("{name}.gguf")), Imatrix::load(golden.join(format!("{name}.gguf"))));
        let want = want.unwrap();
        assert_eq!((found.n_layer_nextn, want.n_layer_nextn), (1, 1), "{name}");
        assert_eq!((found.chunk_count, found.chunk_size), (want.chunk_count, want.chunk_size), "{name}");
        assert_eq!(found.datasets, want.datasets, "{name}");
        assert_same(name, &found.entries, &want.entries);
        let want: f64 = std::fs::read_to_string(golden.join(format!("{name}.ppl"))).unwrap().trim().parse().unwrap();
        let found = ran.stdout.split("PPL = ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let found: f64 = found.parse().unwrap();
        assert!((found / want - 1.0).abs() < 5e-3, "{name}: {found}, not {want}");
    }
}

#[test]
fn nextn_does_not_change_the_trunks_sums() {
    let bench = Bench::new(&["nextn"]);
    let with = bench.ok(&format!("-m nextn.gguf {TEXT} --nextn -o with.gguf"));
    let without = bench.ok(&format!("-m nextn.gguf {TEXT} -o without.gguf"));
    let ppl = |ran: &Ran| ran.stdout.lines().find(|line| line.starts_with('[')).map(str::to_owned);
    assert_eq!(ppl(&with), ppl(&without));
    let (with, without) = (bench.loaded("with.gguf"), bench.loaded("without.gguf"));
    assert_eq!((with.n_layer_nextn, without.n_layer_nextn), (1, 0));
    let trunk: BTreeMap<_, _> = with.entries.into_iter().filter(|(name, _)| !name.starts_with(LAYER)).collect();
    assert_eq!(trunk, without.entries);
}

#[test]
fn a_chunks_last_state_has_no_next_token() {
    let bench = Bench::new(&["nextn"]);
    for batch in [1, 24, 48, 64, 100] {
        bench.ok(&format!("-m nextn.gguf {TEXT} -b {batch} --nextn --no-ppl --min-rows 1"));
        let imatrix = bench.loaded("imatrix.gguf");
        let rows = |name: &str| imatrix.entries[name].counts.clone();
        assert_eq!(rows("blk.0.attn_q.weight"), [3 * 64], "-b {batch}");
        assert_eq!(rows("blk.2.attn_q.weight"), [3 * 63], "-b {batch}");
        assert_eq!(rows("blk.2.nextn.eh_proj.weight"), [3 * 63], "-b {batch}");
        assert_eq!(rows("blk.2.ffn_up_exps.weight").iter().sum::<i64>(), 2 * 3 * 63, "-b {batch}");
    }
}

#[test]
fn a_trunk_with_its_draft_is_the_whole_model() {
    let bench = Bench::new(&["nextn", "nextn-trunk", "draft"]);
    for flags in ["", "-b 48", "--process-output", "--no-ppl"] {
        bench.ok(&format!("-m nextn.gguf --nextn {TEXT} {flags} -o whole.gguf"));
        bench.ok(&format!("-m nextn-trunk.gguf --model-draft draft.gguf {TEXT} {flags} -o pair.gguf"));
        assert!(bench.read("whole.gguf") == bench.read("pair.gguf"), "{flags}");
    }
    // However it is asked for.
    for flags in ["-md draft.gguf", "--spec-draft-model draft.gguf --nextn", "--model_draft=draft.gguf"] {
        bench.ok(&format!("-m nextn-trunk.gguf {flags} {TEXT} --no-ppl -o pair.gguf"));
        assert!(bench.read("whole.gguf") == bench.read("pair.gguf"), "{flags}");
    }
    let mut command = bench.command(&format!("-m nextn-trunk.gguf {TEXT} --no-ppl -o pair.gguf"));
    assert_eq!(run(command.env("LLAMA_ARG_SPEC_DRAFT_MODEL", "draft.gguf")).code, Some(0));
    assert!(bench.read("whole.gguf") == bench.read("pair.gguf"));
}

#[test]
fn an_output_matrix_of_the_layers_own_is_collected() {
    let bench = Bench::new(&["nextn", "nextn-head"]);
    for (model, has) in [("nextn", false), ("nextn-head", true)] {
        bench.ok(&format!("-m {model}.gguf --nextn {TEXT}"));
        let imatrix = bench.loaded("imatrix.gguf");
        assert_eq!(nextn_weights(&imatrix).contains(&"nextn.shared_head_head.weight"), has, "{model}");
    }
}

#[test]
fn a_nextn_run_continues_from_an_in_file() {
    let bench = Bench::new(&["nextn-trunk", "draft"]);
    let args = format!("-m nextn-trunk.gguf -md draft.gguf {TEXT} --no-ppl");
    bench.ok(&format!("{args} -o a.gguf"));
    bench.ok(&format!("{args} --chunk 3 --in-file a.gguf -o b.gguf"));
    let b = bench.loaded("b.gguf");
    assert_eq!((b.n_layer_nextn, b.chunk_count), (1, 6));
    assert_eq!(b.entries["blk.2.attn_q.weight"].counts, [6 * 63]);
    // Its layers have names of their own in the statistics.
    assert!(bench.ok("--show-statistics --in-file b.gguf").stdout.contains("mtp0 | "));
}

#[test]
fn nextn_refuses_several_chunks_per_batch() {
    let bench = Bench::new(&["nextn", "nextn-trunk", "draft"]);
    let says = ["need a single sequence per batch", "'--batch-size' to at most '--ctx-size' (64)", "128"];
    for model in ["-m nextn.gguf --nextn", "-m nextn-trunk.gguf -md draft.gguf"] {
        bench.fails(&format!("{model} {TEXT} -b 128"), &says);
        bench.ok(&format!("{model} {TEXT} -b 127 --no-ppl"));
    }
}

#[test]
fn a_model_without_nextn_layers_warns() {
    let bench = Bench::new(&["llama", "nextn-empty"]);
    for (model, says) in [
        ("llama", "the model has no NextN layers, '--nextn' has no effect"),
        ("nextn-empty", "no NextN tensor in 'nextn-empty.gguf', '--nextn' has no effect"),
    ] {
        bench.ok(&format!("-m {model}.gguf {TEXT} -o without.gguf"));
        let ran = bench.ok(&format!("-m {model}.gguf {TEXT} --nextn -o with.gguf"));
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        assert!(bench.read("with.gguf") == bench.read("without.gguf"), "{model}");
    }
}

#[test]
fn a_nextn_layer_that_llama_cpp_does_not_evaluate_is_refused() {
    let bench = Bench::new(&["nextn-unused"]);
    bench.ok(&format!("-m nextn-unused.gguf {TEXT} --no-ppl -o without.gguf"));
    bench.fails(&format!("-m nextn-unused.gguf {TEXT} --nextn"), &["failed to create the NextN context"]);
}

#[test]
fn a_trunk_and_a_draft_that_do_not_match_are_refused() {
    let models = [
        "llama",
        "nextn",
        "nextn-trunk",
        "draft",
        "draft-cut",
        "draft-cut-header",
        "draft-split",
        "draft-undeclared",
        "draft-two",
        "draft-no-trunk",
        "draft-narrow",
        "draft-vocab",
        "trunk-undeclared",
        "trunk-longer",
    ];
    let bench = Bench::new(&models);
    let unreadable = "is not a readable single-shard GGUF";
    for (model, draft, says) in [
        ("nextn-trunk", "llama", "draft architecture 'llama' does not match the target architecture 'hy_v3'"),
        ("nextn-trunk", "draft-cut", unreadable),
        ("nextn-trunk", "draft-cut-header", unreadable),
        ("nextn-trunk", "draft-split", unreadable),
        ("nextn-trunk", "none", "'none.gguf' is not a readable single-shard GGUF: No such file"),
        ("nextn-trunk", "draft-undeclared", "is not a draft (no NextN layers or trunk tensors present)"),
        ("nextn-trunk", "nextn", "'nextn.gguf' is not a draft"),
        ("nextn-trunk", "nextn-trunk", "'nextn-trunk.gguf' is not a draft"),
        ("nextn-trunk", "draft-two", "multi-layer NextN drafts are not supported (found 2)"),
        ("nextn-trunk", "draft-no-trunk", "sharing the trunk's KV cache are not supported"),
        ("nextn-trunk", "draft-narrow", "the draft output width 32 does not match the target's 64"),
        ("nextn-trunk", "draft-vocab", "vocab are not compatible: the target's tokenizer is SPM, the draft's BPE"),
        ("nextn", "draft", "the model already includes NextN layers: 'nextn.gguf'"),
        ("trunk-undeclared", "draft", "already includes NextN layers (NextN tensor 'blk.2.nextn.eh_proj.weight'"),
        ("trunk-longer", "draft", "no NextN tensors at layer index 3 in 'draft.gguf' found"),
        ("none", "draft", "cannot read model 'none.gguf'"),
    ] {
        let ran = bench.fails(&format!("-m {model}.gguf -md {draft}.gguf {TEXT}"), &[says]);
        assert_eq!(ran.stderr.matches("error: ").count(), 1, "{}", ran.stderr);
    }
    for flags in ["", "--nextn"] {
        let says = "'draft.gguf' is a NextN draft, use with --model-draft/-md";
        bench.fails(&format!("-m draft.gguf {TEXT} {flags}"), &[says]);
    }
}
