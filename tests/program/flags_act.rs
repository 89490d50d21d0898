//! Each flag that changes a run changes it: in its numbers, or in what llama.cpp says it does.

use std::collections::BTreeSet;

use llama_imatrix::gguf::Writer;

use super::*;

const CHUNKS: &str = "-f calibration.txt -c 64 -b 128 --chunks 2";

/// Runs and returns the matrix.
fn matrix(bench: &Bench, model: &str, args: &str) -> Vec<u8> {
    bench.ok(&format!("-m {model}.gguf {CHUNKS} -o out.gguf {args}"));
    bench.read("out.gguf")
}

/// Runs with everything logged and returns the log.
fn logged(bench: &Bench, model: &str, args: &str) -> String {
    bench.ok(&format!("-m {model}.gguf {CHUNKS} -o out.gguf -v {args}")).stderr
}

#[test]
fn flags_that_change_numbers_change_the_matrix() {
    let bench = Bench::new(&["qwen2"]);
    let yarn = "--rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 32";
    let all = [
        String::new(),
        "-ctk f32 -fa off".to_owned(),
        "-ctk q8_0 -fa on".to_owned(),
        "-ctv bf16 -fa on".to_owned(),
        "-ctv f32 -fa off".to_owned(),
        "-fa off".to_owned(),
        "--rope-scale 4".to_owned(),
        "--rope-freq-base 5000".to_owned(),
        yarn.to_owned(),
        format!("{yarn} --yarn-orig-ctx 256"),
        format!("{yarn} --yarn-ext-factor 0.5"),
        // Where there is extrapolation, llama.cpp computes this factor itself.
        format!("{yarn} --yarn-ext-factor 0 --yarn-attn-factor 2"),
        format!("{yarn} --yarn-beta-fast 2"),
        format!("{yarn} --yarn-beta-slow 3"),
    ];
    let distinct: BTreeSet<_> = all.iter().map(|args| matrix(&bench, "qwen2", args)).collect();
    assert_eq!(distinct.len(), all.len());
    for (args, same) in [
        ("--rope-freq-scale 0.25", "--rope-scale 4"),
        ("--rope-scaling linear --rope-scale 4", "--rope-scale 4"),
        ("--rope-scaling none", ""),
        ("--override-kv qwen2.rope.freq_base=float:5000", "--rope-freq-base 5000"),
        ("-np 7 --keep 3 -n 5 --context-shift --temp 0.1 -s 3 --perf", ""),
        ("-t 1 -tb 1 --poll 0 --prio-batch 0 -fit on -fitt 100 -fitc 64 --op-offload -kvo --repack --no-host", ""),
    ] {
        assert_eq!(matrix(&bench, "qwen2", args), matrix(&bench, "qwen2", same), "{args}");
    }
}

#[test]
fn flags_reach_llama_cpp_as_its_log_shows() {
    let bench = Bench::new(&["qwen2", "gemma3", "qwen3moe"]);
    for (model, args, says) in [
        ("qwen2", "-ctk q8_0 -ctv bf16 -fa on", "K (q8_0): "),
        ("qwen2", "-ctv bf16 -fa on", "V (bf16): "),
        ("qwen2", "-fa off", "flash_attn            = disabled"),
        ("qwen2", "-ub 32", "n_ubatch              = 32"),
        ("qwen2", "--rope-scale 2", "freq_scale            = 0.5"),
        ("qwen2", "-lm none", "(load_mode = none)"),
        ("qwen2", "-lm mmap", "(load_mode = mmap)"),
        ("qwen2", "-lm mlock", "(load_mode = mlock)"),
        ("qwen2", "-lm mmap+mlock", "(load_mode = mmap+mlock)"),
        ("qwen2", "-lm dio", "(load_mode = dio)"),
        // The layout that the CPU prefers follows: AMX on some.
        ("qwen2", "-ot ffn_up=CPU", "tensor blk.1.ffn_up.weight (0 MiB q8_0) buffer type overridden to "),
        ("qwen2", "-ncffn 1", "tensor blk.0.ffn_gate.weight (0 MiB q8_0) buffer type overridden to "),
        ("qwen3moe", "-cmoe", "tensor blk.1.ffn_up_exps.weight (0 MiB f16) buffer type overridden to CPU"),
        ("qwen3moe", "-ncmoe 1", "tensor blk.0.ffn_up_exps.weight (0 MiB f16) buffer type overridden to CPU"),
        ("qwen2", "--numa isolate", "NUMA strategy: isolate"),
        ("qwen2", "--numa distribute", "NUMA strategy: distribute"),
        ("qwen2", "--moe-cache-mib 5", "--moe-cache-mib has no effect"),
        ("qwen2", "--fit on", "--fit has no effect"),
        ("qwen2", "-t 1 -tb 2", "n_threads = 1 (n_threads_batch = 2)"),
        ("gemma3", "--swa-full", "using full-size SWA cache"),
    ] {
        let log = logged(&bench, model, args);
        assert!(log.contains(says), "{args}: no '{says}'");
        assert!(!logged(&bench, model, "").contains(says) || args.contains("mmap"), "{args}");
    }
    let first_layer = logged(&bench, "qwen3moe", "-ncmoe 1");
    assert!(!first_layer.contains("tensor blk.1.ffn_up_exps.weight (0 MiB f16) buffer type overridden"));
    let repacked = "cannot be used with preferred buffer type CPU_REPACK";
    if logged(&bench, "qwen2", "").contains(repacked) {
        assert!(!logged(&bench, "qwen2", "-nr").contains(repacked));
    }
    assert!(bench.ok(&format!("-m qwen2.gguf {CHUNKS} --perf")).stderr.contains("load time"));
    assert!(!bench.ok(&format!("-m qwen2.gguf {CHUNKS} --no-perf")).stderr.contains("load time"));
}

#[test]
fn bad_values_are_errors_before_the_run() {
    let bench = Bench::new(&["llama", "llama-nan-layer"]);
    bench.write("text.gguf", b"no adapter");
    for (args, says) in [
        ("-ctk f64", "not one of f32, f16"),
        ("-sm all", "--split-mode"),
        ("-lm fast", "invalid value 'fast'"),
        ("-lzm perhaps", "invalid value 'perhaps'"),
        ("--numa none", "invalid value 'none'"),
        ("-dev CUDA7", "invalid device: CUDA7"),
        ("-dev CPU", "invalid device: CPU"),
        ("-ot blk", "invalid value 'blk'"),
        ("-ot blk=CUDA7", "unknown buffer type 'CUDA7'; available buffer types: CPU"),
        ("-ncmoe -1", "invalid value -1"),
        ("-ts a,b", "'a' is not a number"),
        ("-ts 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "input configs, but system only has"),
        ("--override-kv a=long:1", "Invalid type for KV override: a=long:1"),
        ("-C 0xz", "invalid cpumask"),
        ("-Cr 3", "invalid range '3'"),
        ("--prio 4", "invalid value 4"),
        ("--prio-batch -1", "invalid value -1"),
        ("--poll -1", "invalid value -1"),
        ("--lora none.gguf", "failed to load lora adapter 'none.gguf'"),
        ("--lora text.gguf", "failed to load lora adapter 'text.gguf'"),
        ("--lora-scaled none.gguf", "lora-scaled format: FNAME:SCALE"),
        ("--control-vector none.gguf", "failed to load control vector file from none.gguf"),
        ("--control-vector text.gguf", "failed to load control vector file from text.gguf"),
        ("--control-vector-scaled none.gguf", "control-vector-scaled format: FNAME:SCALE"),
        ("--rpc localhost:1", "RPC server 'localhost:1': "),
        ("--rpc nonsense", "RPC server 'nonsense': "),
        ("--grammar-file none", "failed to open file 'none'"),
        ("-l 3", "invalid input format"),
        ("-bf none.txt", "none.txt"),
    ] {
        let ran = bench.fails(&format!("-m llama.gguf {CHUNKS} {args}"), &[says]);
        assert!(!ran.stdout.contains("[1]"), "{args}");
    }
    let broken = format!("-m llama-nan-layer.gguf {CHUNKS} --check-tensors");
    bench.fails(&broken, &["cannot load model", "has invalid data"]);
}

#[test]
fn texts_are_read_from_every_source() {
    let bench = Bench::new(&["llama"]);
    let words = String::from_utf8(bench.read("calibration.txt")).unwrap();
    let args = "-m llama.gguf -c 64 -b 128 --chunks 2 -o out.gguf";
    let whole = |args: &str| {
        bench.ok(args);
        llama_imatrix::imatrix::Imatrix::load(bench.path("out.gguf")).unwrap()
    };
    let file = whole(&format!("{args} -f calibration.txt"));
    let ran = bench.ok(&format!("{args} -bf calibration.txt"));
    assert!(ran.stderr.contains(&format!("Read {} bytes from binary file calibration.txt\n", words.len())));
    assert_eq!(whole(&format!("{args} -bf calibration.txt")).entries, file.entries);
    // A text with its line ends written as \n is the same text, once read as such.
    bench.write("escaped.txt", words.trim_end().replace('e', "\\x65").as_bytes());
    assert_ne!(whole(&format!("{args} -f escaped.txt")).entries, file.entries);
    assert_ne!(whole(&format!("{args} -e -f escaped.txt --no-escape")).entries, file.entries);
    assert_eq!(whole(&format!("{args} -f escaped.txt --escape")).entries, file.entries);
}

/// An adapter for the first layer's `attn_q`, of rank 2.
fn write_adapter(bench: &Bench) {
    let mut writer = Writer::new();
    for (key, value) in [("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")] {
        writer.set(key, value);
    }
    writer.set("adapter.lora.alpha", 4.0f32);
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..128).map(|i| (i as f32).sin()).collect(), vec![0.125; 128]);
    writer.f32_tensor("blk.0.attn_q.weight.lora_a", &[64, 2], a).unwrap();
    writer.f32_tensor("blk.0.attn_q.weight.lora_b", &[2, 64], b).unwrap();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bench.write("lora.gguf", &bytes);
}

#[test]
fn adapters_are_applied_at_their_scale() {
    let bench = Bench::new(&["llama"]);
    write_adapter(&bench);
    let plain = matrix(&bench, "llama", "");
    let applied = matrix(&bench, "llama", "--lora lora.gguf");
    assert_ne!(plain, applied);
    assert_eq!(applied, matrix(&bench, "llama", "--lora-scaled lora.gguf:1"));
    assert_eq!(plain, matrix(&bench, "llama", "--lora-scaled lora.gguf:0"));
    assert_ne!(applied, matrix(&bench, "llama", "--lora-scaled lora.gguf:2"));
    let bench = Bench::new(&["gemma3"]);
    write_adapter(&bench);
    bench.fails(&format!("-m gemma3.gguf {CHUNKS} --lora lora.gguf"), &["failed to load lora adapter 'lora.gguf'"]);
}

#[test]
fn control_vectors_are_added_in_their_layers() {
    let bench = Bench::new(&["llama"]);
    let mut writer = Writer::new();
    writer.set("general.architecture", "controlvector");
    for layer in [1, 2] {
        writer.f32_tensor(format!("direction.{layer}"), &[64], vec![0.5; 64]).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bench.write("cvec.gguf", &bytes);
    // The last layer's direction changes what comes after it: the input of the output matrix.
    let matrix = |args: &str| matrix(&bench, "llama", &format!("--process-output {args}"));
    let plain = matrix("");
    let added = matrix("--control-vector cvec.gguf");
    assert_ne!(plain, added);
    assert_eq!(plain, matrix("--control-vector-scaled cvec.gguf:0"));
    assert_eq!(added, matrix("--control-vector-scaled cvec.gguf:0.5,cvec.gguf:0.5"));
    assert_eq!(added, matrix("--control-vector cvec.gguf --control-vector-layer-range 1 2"));
    let second = matrix("--control-vector cvec.gguf --control-vector-layer-range 2 2");
    assert!(second != plain && second != added);
    let bench2 = Bench::new(&["qwen2"]);
    bench2.write("cvec.gguf", &bytes);
    bench2.fails(
        &format!("-m qwen2.gguf {CHUNKS} --control-vector cvec.gguf"),
        &["cannot apply a control vector to the model"],
    );
}

/// Runs the program until one of its threads has `line` in the file `name` that the system keeps for it.
#[cfg(target_os = "linux")]
fn has_a_thread(bench: &Bench, args: &str, name: &str, line: impl Fn(&str) -> bool) -> bool {
    bench.write("long.txt", support::text(20_000, 5).as_bytes());
    let args = format!("-m llama.gguf -f long.txt -c 128 -b 128 -o out.gguf --log-disable {args}");
    let mut child = bench.command(&args).spawn().unwrap();
    let mut seen = false;
    while !seen && child.try_wait().unwrap().is_none() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        seen = tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join(name)).ok())
            .any(|text| text.lines().any(&line));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    seen
}

#[cfg(target_os = "linux")]
#[test]
fn threads_get_their_cpus_and_priorities() {
    let bench = Bench::new(&["llama"]);
    let runs_on = |args: &str, cpu: &str| {
        has_a_thread(&bench, args, "status", |line| {
            line.strip_prefix("Cpus_allowed_list:").is_some_and(|list| list.trim() == cpu)
        })
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    if !all.starts_with("0-") {
        support::cannot_test(&format!("the CPUs 0 and 1 are not both this process's, which are {all}"));
        return;
    }
    assert!(runs_on("-t 2", all));
    for args in ["-C 0x2", "-Cr 1-1", "-C 1 -Cb 2", "-C 1 -Crb 1-1", "-C 3 --cpu-strict 1", "-C 3 --cpu-strict-batch 1"]
    {
        assert!(runs_on(&format!("-t 2 {args}"), "1"), "{args}");
    }
    assert!(runs_on("-t 2 -C 3 --cpu-strict 1", "0"));
    // The fields after the name in parentheses begin with the third; nice is the nineteenth.
    let nice = |line: &str| line.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16)) == Some("5");
    assert!(has_a_thread(&bench, "--prio -1", "stat", nice));
    let ran = bench.ok(&format!("-m llama.gguf {CHUNKS} -t 2 -C 1"));
    assert!(ran.stderr.contains("Not enough set bits in CPU mask (1) to satisfy requested thread count: 2"));
}

#[test]
fn layers_are_placed_on_an_rpc_server() {
    let Some(server) = rpc_server() else { return };
    let bench = Bench::new(&["qwen3moe"]);
    let devices = bench.ok(&format!("--rpc {server} --list-devices")).stdout;
    assert!(devices.contains("RPC0"), "{devices}");
    let device = devices.lines().nth(1).unwrap().trim().split(": ").next().unwrap().to_owned();

    let on_cpu = matrix(&bench, "qwen3moe", "");
    let remote = format!("--rpc {server} -ngl 99");
    let log = logged(&bench, "qwen3moe", &format!("{remote} --sum-on host"));
    assert!(log.contains(&format!("layer   1 assigned to device {device}")));
    assert_eq!(bench.read("out.gguf"), on_cpu);
    for (args, says) in [
        (format!("{remote} -dev {device}"), format!("layer   0 assigned to device {device}")),
        (format!("{remote} -dev none"), "layer   0 assigned to device CPU".to_owned()),
        (format!("--rpc {server} -ngl 0"), "layer   0 assigned to device CPU".to_owned()),
        (format!("--rpc {server} -ngl 1"), "layer   0 assigned to device CPU".to_owned()),
        (format!("{remote} -nkvo"), "CPU KV buffer size".to_owned()),
        (
            format!("{remote} -cmoe"),
            "tensor blk.0.ffn_up_exps.weight (0 MiB f16) buffer type overridden to CPU".to_owned(),
        ),
        (
            format!("{remote} -ot ffn={device}[{server}]"),
            format!("tensor blk.0.ffn_norm.weight (0 MiB f32) buffer type overridden to {device}"),
        ),
        (format!("{remote} -sm none -mg 0"), format!("layer   0 assigned to device {device}")),
        (format!("{remote} -ts 1"), format!("layer   0 assigned to device {device}")),
        (format!("{remote} --no-op-offload --no-host"), format!("layer   0 assigned to device {device}")),
    ] {
        let log = logged(&bench, "qwen3moe", &args);
        assert!(log.contains(&says), "{args}: no '{says}'");
    }
    bench.fails(&format!("-m qwen3moe.gguf {CHUNKS} {remote} -sm none -mg 5"), &["invalid value for main_gpu"]);
}
