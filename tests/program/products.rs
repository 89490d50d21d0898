//! `--cpu-products`: other kernels, the same bytes.

#![expect(clippy::print_stderr, reason = "what was skipped, for those who run the tests")]

use super::*;

/// How many pieces llama.cpp cuts the graph of a batch into: one where the CPU's backend computes all of it.
fn splits(ran: &Ran) -> u32 {
    let after = ran.stderr.lines().find_map(|line| line.split_once(" splits = ")).expect("llama.cpp logs it").1;
    after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Whether this machine has kernels with ggml's bits.
fn has_kernels() -> bool {
    let found = llama_imatrix::products::register().iter().any(|choice| choice.kernel().is_some());
    #[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "openmp"))]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        assert!(found, "there are kernels for AVX2");
    }
    found
}

#[test]
fn our_kernels_give_the_bytes_of_ggmls() {
    let models = support::MODELS.iter().chain(support::QUANTIZED).map(|model| model.name);
    for model in models.chain(["nextn", "nextn-hybrid"]) {
        let bench = Bench::new(&[model]);
        // NextN takes one sequence per batch.
        let batch = if model.starts_with("nextn") { "-b 64 --nextn" } else { "-b 128" };
        for flags in
            ["", "--no-ppl --process-output -t 2", "-t 2 --lanes 2", "-b 64 -ub 24 -fa off", "--no-repack -ub 30"]
        {
            let run = format!("-m {model}.gguf -f calibration.txt -c 64 {batch} --chunks 3 {flags}");
            let [ours, ggml] = ["auto", "ggml"].map(|who| {
                let ran = bench.ok(&format!("{run} --cpu-products {who} -o {who}.gguf"));
                (ran.stdout.replace(who, ""), bench.read(&format!("{who}.gguf")))
            });
            assert_eq!(ours.0, ggml.0, "{run}");
            assert!(ours.1 == ggml.1, "{run}: the matrices are not the same");
        }
    }
}

#[test]
fn products_with_kernels_leave_ggmls_backend() {
    if !has_kernels() {
        eprintln!("no kernels here: nothing is tested");
        return;
    }
    let bench = Bench::new(&["qwen3moe", "qwen2", "k-quants"]);
    for (model, says) in [
        ("qwen3moe", "F16 MUL_MAT_ID on the CPU: F16"),
        ("qwen2", "Q8_0 MUL_MAT on the CPU: Q8_0"),
        ("k-quants", "Q4_K repacked MUL_MAT_ID on the CPU: Q4_K repacked"),
    ] {
        let run = format!("-m {model}.gguf -f calibration.txt -c 64 -b 64 --chunks 2 -v -o out.gguf");
        let ours = bench.ok(&run);
        assert!(ours.stderr.contains(says), "{}", ours.stderr);
        assert!(splits(&ours) > 1, "{model}: ours take nothing");
        let ggml = bench.ok(&format!("{run} --cpu-products ggml"));
        assert!(!ggml.stderr.contains("on the CPU:"), "{}", ggml.stderr);
        assert_eq!(splits(&ggml), 1, "{model}");
    }
}

#[test]
fn the_products_backend_is_not_listed_as_a_device() {
    let bench = Bench::new(&["llama"]);
    let listed = bench.ok("--list-devices").stdout;
    assert!(!listed.contains("PRODUCTS"), "{listed}");
    bench.fails("-m llama.gguf -f calibration.txt --device PRODUCTS", &["PRODUCTS"]);
}
