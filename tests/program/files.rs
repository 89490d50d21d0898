//! Commands over files, which need no model.

use llama_imatrix::imatrix::Imatrix;

use super::*;

/// Two matrices over different parts of the text.
fn bench() -> Bench {
    let bench = Bench::new(&["llama"]);
    let args = "-m llama.gguf -f calibration.txt -c 64 -b 64 --no-ppl";
    bench.ok(&format!("{args} --chunks 3 -o a.gguf"));
    bench.ok(&format!("{args} --chunk 3 --chunks 2 -o b.gguf"));
    bench
}

#[test]
fn matrices_add_up() {
    let bench = bench();
    bench.ok("--in-file a.gguf,b.gguf -o ab.gguf");
    bench.ok("--in-file a.gguf --in-file b.gguf -o again.gguf");
    assert_eq!(bench.read("ab.gguf"), bench.read("again.gguf"));
    let [a, b, ab] = ["a.gguf", "b.gguf", "ab.gguf"].map(|name| Imatrix::load(bench.path(name)).unwrap());
    assert_eq!((ab.chunk_count, ab.datasets.len()), (5, 2));
    for (name, entry) in &ab.entries {
        let (a, b) = (&a.entries[name], &b.entries[name]);
        assert_eq!(entry.sum2[0].to_bits(), (a.sum2[0] + b.sum2[0]).to_bits(), "{name}");
        assert_eq!(entry.counts, [320]);
    }
}

#[test]
fn formats_convert() {
    let bench = bench();
    bench.ok("--in-file a.gguf -o a.dat -c 64");
    assert!(Imatrix::load(bench.path("a.dat")).unwrap().is_legacy);
    let ran = bench.ok("-c 64 --in-file a.dat -o back.gguf");
    let [a, back] = ["a.gguf", "back.gguf"].map(|name| Imatrix::load(bench.path(name)).unwrap());
    for (name, entry) in &a.entries {
        let found = &back.entries[name];
        assert_eq!((&found.counts, &found.sum), (&entry.counts, &None), "{name}");
        let close = entry.sum2.iter().zip(&found.sum2).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs());
        assert!(close, "{name}");
    }
    assert_eq!(ran.stdout, "\n", "the line that a save leaves");
}

/// A legacy file does not say how long its chunks were. llama.cpp's tool takes the run's, so that the same file weighs
/// more in a run of longer chunks.
#[test]
fn a_legacy_file_is_scaled_by_its_own_chunk_size_in_any_run() {
    let bench = bench();
    bench.ok("--in-file a.gguf -o a.dat -c 64"); // 3 chunks
    let rows = |args: &str| {
        bench.ok(&format!("{args} -o out.gguf"));
        let out = Imatrix::load(bench.path("out.gguf")).unwrap();
        assert_eq!(out.entries["blk.0.attn_q.weight"].sum, None);
        out.entries["blk.0.attn_q.weight"].counts[0]
    };
    let run = "-m llama.gguf -f calibration.txt --no-ppl --chunks 2 --in-file a.dat";
    assert_eq!(rows(&format!("{run} -c 64 -b 64")), 3 * 512 + 2 * 64);
    assert_eq!(rows(&format!("{run} -c 128 -b 128")), 3 * 512 + 2 * 128);
    assert_eq!(rows(&format!("{run} -c 128 -b 128 --legacy-chunk-size 64")), 3 * 64 + 2 * 128);
    assert_eq!(rows("--in-file a.dat -c 64"), 3 * 64);
    assert_eq!(rows("--in-file b.gguf --in-file a.dat -c 128"), 3 * 128 + 2 * 64, "whatever b.gguf's chunks are");
}

#[test]
fn statistics_are_shown_for_both_formats() {
    let bench = bench();
    bench.ok("--in-file a.gguf --output-format dat -o a.dat -c 64");
    for (file, columns) in [("a.gguf", "L2 Dist"), ("a.dat", "PCC")] {
        let ran = bench.ok(&format!("--show-statistics --in-file {file} -c 64"));
        let head = format!("\nComputing tensor statistics for {file} (");
        assert!(ran.stdout.starts_with(&head), "{}", ran.stdout);
        assert!(ran.stdout.contains(&format!("Computing layer statistics for {file} (3 layers)")), "{}", ran.stdout);
        assert!(ran.stdout.contains(columns));
    }
}
