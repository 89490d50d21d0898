//! Sums on a real device, such as a GPU. `LLAMA_IMATRIX_TEST_DEVICE` names it, as `--list-devices` does:
//!
//! ```sh
//! LLAMA_IMATRIX_TEST_DEVICE=CUDA0 cargo test --release --features cuda devices:: -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `scripts/test-vulkan.sh` runs them on Mesa's lavapipe, a Vulkan device that computes on the CPU. It compiles a pipeline
//! for each operation, type and size of tiles, which takes minutes. So all runs have micro-batches of 32 tokens, which need
//! only the smallest tiles, and few chunks.

#![expect(clippy::print_stderr, reason = "a table, for those who run the tests")]

use std::time::Instant;

use llama_imatrix::lens::file::{LensFile, Section};

use super::workers::{close, load, perplexity};
use super::*;

/// The flags that all runs share, after the model's.
fn flags() -> String {
    let device = std::env::var("LLAMA_IMATRIX_TEST_DEVICE");
    let device = device.expect("LLAMA_IMATRIX_TEST_DEVICE must name a device of --list-devices");
    format!("-f calibration.txt -c 64 -b 64 -ub 32 -t 1 -fa off -dev {device} --lanes 1 --process-output -v")
}

/// Returns how far perplexities are apart, relative to the first.
fn apart(host: &Ran, found: &Ran) -> f64 {
    let [host, found] = [host, found].map(|ran| perplexity(ran).parse::<f64>().unwrap());
    (found - host).abs() / host
}

/// Compares a run that sums on the device with one that transfers activations. Both compute each layer on the same device.
/// Returns how far sums and perplexities are apart.
fn compare(bench: &Bench, run: &str) -> [f64; 2] {
    let [host, found] = ["host", "auto"].map(|place| bench.ok(&format!("{run} --sum-on {place} -o {place}.gguf")));
    assert!(!found.stderr.contains("these are fetched"), "{run}: {}", found.stderr);
    let sums = close(&load(bench, "host.gguf"), &load(bench, "auto.gguf"), run);
    // The host adds rows one after the other, the device as a tree.
    assert!(bench.read("host.gguf") != bench.read("auto.gguf"), "{run}: nothing was summed on the device");
    let perplexities = apart(&host, &found);
    assert!(perplexities <= 1e-5, "{run}: {}, not {}", perplexity(&found), perplexity(&host));
    [sums, perplexities]
}

#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn sums_on_the_device_are_those_of_transferred_activations() {
    eprintln!(
        "| model | sums off by | perplexity off by | seconds, --sum-on host: first, second run | --sum-on auto |"
    );
    for model in ["llama", "qwen3moe", "deepseek2", "mamba"] {
        let bench = Bench::new(&[model]);
        let run = format!("-m {model}.gguf {} -ngl 99 --chunks 4", flags());
        // The first run compiles pipelines, unless an earlier one has left them in a cache.
        let seconds = ["host", "auto"].map(|place| {
            [(); 2].map(|()| {
                let started = Instant::now();
                bench.ok(&format!("{run} --sum-on {place} -o timed.gguf"));
                started.elapsed().as_secs_f64()
            })
        });
        let [sums, perplexities] = compare(&bench, &run);
        let [host, auto] = seconds.map(|[first, second]| format!("{first:.1}, {second:.1}"));
        eprintln!("| {model} | {sums:.1e} | {perplexities:.1e} | {host} | {auto} |");
    }
}

#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn a_model_may_be_on_the_device_in_part() {
    let bench = Bench::new(&["qwen3moe"]);
    for way in ["-ngl 1", "-ngl 2", "-ngl 99 -ot ffn=CPU", "-ngl 99 --cpu-moe", "-ngl 99 -ncmoe 1", "-ngl 99 -nkvo"] {
        let [sums, perplexities] = compare(&bench, &format!("-m qwen3moe.gguf {} --chunks 2 {way}", flags()));
        eprintln!("{way}: sums off by {sums:.1e}, perplexity off by {perplexities:.1e}");
    }
}

#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn lanes_on_the_device_give_the_same_bytes() {
    let bench = Bench::new(&["llama", "qwen3moe"]);
    for model in ["llama", "qwen3moe"] {
        let run = format!("-m {model}.gguf {} -ngl 99 --chunks 10", flags());
        let one = bench.ok(&format!("{run} -o one.gguf"));
        let two = bench.ok(&format!("{run} --lanes 2 -o two.gguf"));
        assert!(bench.read("one.gguf") == bench.read("two.gguf"), "{model}");
        assert_eq!(estimate(&one), estimate(&two), "{model}");
    }
}

/// Flash attention is the default where a device has it.
#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn flash_attention_changes_no_sum() {
    let bench = Bench::new(&["llama"]);
    let [sums, perplexities] = compare(&bench, &format!("-m llama.gguf {} -ngl 99 --chunks 2 -fa on", flags()));
    eprintln!("-fa on: sums off by {sums:.1e}, perplexity off by {perplexities:.1e}");
}

#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn inputs_of_operations_that_the_device_lacks_are_transferred() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = format!("-m qwen3moe.gguf {} -ngl 99 --chunks 2", flags());
    let host = bench.ok(&format!("{run} --sum-on host -o host.gguf"));
    let lacking = |operations: &str| lacking(&bench, &format!("{run} -o {operations}.gguf"), operations);

    // No input can be summed there.
    let ran = lacking("SQR");
    assert!(ran.stderr.contains("cannot sum inputs like that of blk.0."), "{}", ran.stderr);
    assert!(bench.read("SQR.gguf") == bench.read("host.gguf"));
    assert_eq!(estimate(&ran), estimate(&host));

    // Experts' inputs alone cannot.
    let ran = lacking("GET_ROWS");
    assert!(ran.stderr.contains("cannot sum inputs like that of blk.0.ffn_"), "{}", ran.stderr);
    let (want, found) = (load(&bench, "host.gguf"), load(&bench, "GET_ROWS.gguf"));
    close(&want, &found, "GET_ROWS");
    for (name, entry) in &want.entries {
        assert_eq!(found.entries[name] == *entry, name.contains("_exps"), "{name}");
    }

    // Another way to sum them: inner products. They may be too inexact, and are then not used.
    let ran = lacking("OUT_PROD");
    let transferred = ran.stderr.contains("these are fetched");
    let sums = close(&want, &load(&bench, "OUT_PROD.gguf"), "OUT_PROD");
    eprintln!("without outer products: experts' inputs transferred: {transferred}, sums off by {sums:.1e}");

    // The logits cannot be reduced there.
    let ran = lacking("ARGMAX");
    let says = "the device with the output matrix cannot reduce logits";
    assert!(ran.stderr.contains(says) && !host.stderr.contains(says), "{}", ran.stderr);
    let off_by = apart(&host, &ran);
    eprintln!("perplexity from all logits: off by {off_by:.1e}");
    assert!(off_by <= 1e-5, "{}, not {}", perplexity(&ran), perplexity(&host));
}

/// Runs the program as if its devices lacked these operations.
fn lacking(bench: &Bench, run: &str, operations: &str) -> Ran {
    let ran = super::run(bench.command(run).env("LLAMA_IMATRIX_TEST_LACKS", operations));
    assert_eq!(ran.code, Some(0), "{run}\n{}", ran.stderr);
    ran
}

/// The same with the CPU as a device, which every machine has.
#[test]
fn inputs_of_operations_that_the_cpu_lacks_are_summed_by_the_program() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = "-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 3 -t 1 -v";
    bench.ok(&format!("{run} --sum-on host -o host.gguf"));
    let run = format!("{run} --sum-on device");
    let ran = bench.ok(&format!("{run} -o device.gguf"));
    assert!(!ran.stderr.contains("these are fetched"), "{}", ran.stderr);
    assert!(bench.read("device.gguf") != bench.read("host.gguf"));

    let ran = lacking(&bench, &format!("{run} -o none.gguf"), "SQR");
    assert!(ran.stderr.contains("CPU cannot sum inputs like that of blk.0."), "{}", ran.stderr);
    assert!(bench.read("none.gguf") == bench.read("host.gguf"));

    // Products are needed for experts alone.
    let ran = lacking(&bench, &format!("{run} -o dense.gguf"), "MUL_MAT");
    assert!(ran.stderr.contains("CPU cannot sum inputs like that of blk.0.ffn_"), "{}", ran.stderr);
    let want = load(&bench, "host.gguf");
    for (name, entry) in &load(&bench, "dense.gguf").entries {
        assert_eq!(want.entries[name] == *entry, name.contains("_exps"), "{name}");
    }
}

#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn a_bad_chunk_on_the_device_is_discarded() {
    let bench = Bench::new(&["llama-nan-token"]);
    let run = format!("-m llama-nan-token.gguf {} -ngl 99", flags());
    let bad = |ran: &Ran| ran.stderr.lines().find(|line| line.contains("chunk discarded")).unwrap().to_owned();
    let on_host = bench.ok(&format!("{run} --sum-on host -o host.gguf"));
    for lanes in [1, 2] {
        let ran = bench.ok(&format!("{run} --lanes {lanes} -o out.gguf"));
        assert_eq!(bad(&ran), bad(&on_host), "{lanes} lanes");
        close(&load(&bench, "host.gguf"), &load(&bench, "out.gguf"), "with a bad chunk");
    }
}

#[cfg(unix)]
#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn a_killed_run_on_the_device_is_resumed() {
    let bench = Bench::new(&["qwen3moe"]);
    let run = format!("-m qwen3moe.gguf {} -ngl 99 --chunks 6", flags());
    let whole = bench.ok(&format!("{run} -o whole.gguf"));
    let mut killed = bench.command(&format!("{run} --state-frequency 2"));
    assert_eq!(super::run(killed.env("LLAMA_IMATRIX_TEST_STOP_SAVE", "end:2")).code, None);
    let ran = bench.ok(&format!("{run} --resume"));
    assert!(ran.stderr.contains("chunks 1-4 are done"), "{}", ran.stderr);
    assert_eq!(estimate(&ran), estimate(&whole));
    close(&load(&bench, "whole.gguf"), &load(&bench, "imatrix.gguf"), "resumed");
}

/// The CPU measures the same, but for the device's rounding, and the matrix keeps its bytes.
#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn layers_are_measured_on_the_device() {
    let bench = Bench::new(&["llama"]);
    let run = format!("-m llama.gguf {} --chunks 2", flags());
    let all = "--logit-lens --logit-prism --layer-similarity --lens-tokens 8";
    bench.ok(&format!("{run} -ngl 99 -o plain.gguf"));
    bench.ok(&format!("{run} -ngl 99 {all} -o device.gguf"));
    bench.ok(&format!("{run} -dev none {all} -o cpu.gguf"));
    assert!(bench.read("device.gguf") == bench.read("plain.gguf"));
    let [cpu, device] =
        ["cpu", "device"].map(|name| LensFile::load(&bench.path(&format!("{name}.lens.json"))).unwrap());
    let lens = |file: &LensFile| match &file.lens {
        Some(Section::Measured(lens)) => lens.layers.iter().map(|layer| layer.point.kl.mean).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let prism = |file: &LensFile| match &file.prism {
        Some(Section::Measured(prism)) => prism.next_token.sum_check.max_relative_error,
        other => panic!("{other:?}"),
    };
    let cosines = |file: &LensFile| match &file.similarity {
        Some(Section::Measured(similarity)) => {
            similarity.layers.iter().map(|layer| layer.whole.mean).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    eprintln!("mean KL per layer: {:?} on the CPU, {:?} on the device", lens(&cpu), lens(&device));
    eprintln!("error of the parts' sum: {:.1e} on the CPU, {:.1e} on the device", prism(&cpu), prism(&device));
    for (cpu, device) in lens(&cpu).iter().zip(lens(&device)) {
        assert!((cpu - device).abs() < 1e-2 * cpu.max(1e-2), "{device}, not {cpu}");
    }
    assert!(prism(&device) < 1e-3);
    for (cpu, device) in cosines(&cpu).iter().zip(cosines(&device)) {
        assert!((cpu - device).abs() < 1e-3, "{device}, not {cpu}");
    }
}

/// ggml's Vulkan backend takes the limit of a buffer's size from the environment.
#[test]
#[ignore = "needs a device: scripts/test-vulkan.sh"]
fn a_device_without_room_is_an_error_with_a_hint() {
    let bench = Bench::new(&["llama"]);
    bench.write("calibration.txt", support::text(60_000, 3).as_bytes());
    let run = format!("-m llama.gguf {} -ngl 99 -c 32768 -b 32768 --chunks 1", flags());
    let mut command = bench.command(&run);
    let ran = super::run(command.env("GGML_VK_FORCE_MAX_BUFFER_SIZE", "1000000"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for says in ["cannot create a context of 32768 tokens", "fewer layers on the device (--n-gpu-layers)"] {
        assert!(ran.stderr.contains(says), "no '{says}' in\n{}", ran.stderr);
    }
}
