//! Sums on devices: the CPU as one, and workers on this machine, over the same protocol as far ones.

#![expect(clippy::print_stderr, reason = "counts, for those who run the tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use llama_imatrix::imatrix::{Entry, Imatrix, Loaded};

use super::*;

/// What the issue of sums on devices allows, relative to the host's.
const TOLERANCE: f64 = 1e-5;

/// A worker of ours, killed when it is dropped.
pub(super) struct Worker {
    pub(super) child: Child,
    pub(super) address: String,
}

impl Worker {
    /// `None` where this build has no RPC.
    pub(super) fn start() -> Option<Self> {
        Self::start_with(|_| {})
    }

    fn start_with(prepare: impl Fn(&mut Command)) -> Option<Self> {
        // Somebody else may take the port before the worker does.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new(program());
            command.args(["worker", "--threads", "1", "--port", &port.to_string()]).env("OMP_WAIT_POLICY", "passive");
            prepare(&mut command);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let mut worker = Self { child, address: format!("127.0.0.1:{port}") };
            let started = Instant::now();
            while worker.child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(20) {
                if TcpStream::connect(&worker.address).is_ok() {
                    return Some(worker);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = worker.child.kill();
            let mut says = String::new();
            worker.child.stderr.take().unwrap().read_to_string(&mut says).unwrap();
            if says.contains("not supported in this build") {
                support::cannot_test(&says);
                return None;
            }
        }
        panic!("no worker could be started");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn load(bench: &Bench, name: &str) -> Loaded {
    Imatrix::load(bench.path(name)).unwrap()
}

/// Holds sums against the host's: counts equal, sums of squares to [`TOLERANCE`] of their own, sums to that of what they
/// would be without a sign. Returns the largest of these relative differences.
pub(super) fn close(host: &Loaded, found: &Loaded, what: &str) -> f64 {
    let mut largest = 0.0_f64;
    assert!(host.entries.keys().eq(found.entries.keys()), "{what}: other weights");
    assert_eq!(host.chunk_count, found.chunk_count, "{what}");
    for (name, want) in &host.entries {
        let Entry { sum2, sum, counts } = &found.entries[name];
        assert_eq!(&want.counts, counts, "{what}: counts of {name}");
        let channels = sum2.len() / counts.len();
        for (i, (&a, &b)) in want.sum2.iter().zip(sum2).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            assert!((a - b).abs() <= TOLERANCE * a, "{what}: {name}.in_sum2[{i}] is {b}, not {a}");
            let off_by = (a - b).abs() / a;
            let scale = (a * counts[i / channels] as f64).sqrt();
            let (a, b) = (want.sum.as_ref().unwrap()[i], sum.as_ref().unwrap()[i]);
            let difference = f64::from(a) - f64::from(b);
            assert!(difference.abs() <= TOLERANCE * scale, "{what}: {name}.in_sum[{i}] is {b}, not {a}");
            if scale > 0.0 {
                largest = largest.max(off_by).max(difference.abs() / scale);
            }
        }
    }
    largest
}

/// The estimate's value, with its four decimals.
pub(super) fn perplexity(ran: &Ran) -> &str {
    let (_, rest) = estimate(ran).split_once("PPL = ").unwrap();
    rest.split(' ').next().unwrap()
}

#[test]
fn every_model_has_the_same_sums_wherever_they_are_added_up() {
    let Some(worker) = Worker::start() else { return };
    let Some(second) = Worker::start() else { return };
    let (one, two) = (&worker.address, &second.address);
    let ways = [
        "--sum-on device".to_owned(),
        format!("--rpc {one} -ngl 99"),
        format!("--rpc {one} -ngl 1"),
        format!("--rpc {one},{two} -ngl 99 -ts 1,1"),
        format!("--rpc {one} -ngl 99 -ot ffn=CPU"),
    ];
    for model in support::MODELS.iter().chain(support::BEYOND) {
        let name = model.name;
        let bench = Bench::new(&[name]);
        // Workers do not repack weights.
        let run =
            format!("-m {name}.gguf -f calibration.txt -c 64 -b 128 --chunks 4 -t 1 --process-output --no-repack");
        let on_host = bench.ok(&format!("{run} -o host.gguf"));
        let host = load(&bench, "host.gguf");
        for way in &ways {
            let ran = bench.ok(&format!("{run} {way} -o out.gguf"));
            assert!(!ran.stderr.contains("these are fetched"), "{name} {way}: {}", ran.stderr);
            close(&host, &load(&bench, "out.gguf"), &format!("{name} {way}"));
            if name != "bert" {
                assert_eq!(perplexity(&ran), perplexity(&on_host), "{name} {way}");
            }
        }
    }
}

#[test]
fn experts_may_stay_on_the_cpu() {
    let Some(worker) = Worker::start() else { return };
    let bench = Bench::new(&["qwen3moe"]);
    let run = "-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 4";
    bench.ok(&format!("{run} -o host.gguf"));
    for way in ["--cpu-moe", "-ncmoe 1", "-nkvo", "--no-op-offload"] {
        bench.ok(&format!("{run} --rpc {} -ngl 99 {way} -o out.gguf", worker.address));
        close(&load(&bench, "host.gguf"), &load(&bench, "out.gguf"), way);
    }
}

#[test]
fn nextn_layers_are_summed_on_a_worker() {
    let Some(worker) = Worker::start() else { return };
    for name in ["nextn", "nextn-hybrid"] {
        let bench = Bench::new(&[name]);
        let run = format!("-m {name}.gguf --nextn -f calibration.txt -c 64 -b 64 --chunks 4");
        bench.ok(&format!("{run} -o host.gguf"));
        for way in ["--sum-on device".to_owned(), format!("--rpc {} -ngl 99", worker.address)] {
            bench.ok(&format!("{run} {way} -o out.gguf"));
            close(&load(&bench, "host.gguf"), &load(&bench, "out.gguf"), &format!("{name} {way}"));
        }
    }
}

/// More batches than stay away at once, and lanes that overtake each other.
#[test]
fn lanes_and_saves_do_not_change_a_bit() {
    let Some(worker) = Worker::start() else { return };
    let bench = Bench::new(&["qwen3moe"]);
    let run = format!("-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 40 --rpc {} -ngl 99", worker.address);
    bench.ok(&format!("{run} --lanes 1 --state-interval 0 -ofreq 0 -o one.gguf"));
    for flags in
        ["--lanes 2 --state-interval 0", "--lanes 3 --state-frequency 7", "--lanes 1 --state-frequency 1 -ofreq 3"]
    {
        bench.ok(&format!("{run} {flags} -o out.gguf"));
        assert!(bench.read("one.gguf") == bench.read("out.gguf"), "{flags}");
    }
    bench.ok("-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 40 -o host.gguf");
    close(&load(&bench, "host.gguf"), &load(&bench, "one.gguf"), "40 chunks");
}

#[test]
fn sums_on_the_host_of_a_workers_activations_equal_upstreams() {
    let Some(worker) = Worker::start() else { return };
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 4";
    bench.ok(&format!("{run} -o host.gguf"));
    for way in ["--sum-on host", "--accumulate f64"] {
        let host = if way == "--sum-on host" { "host.gguf" } else { "exact.gguf" };
        bench.ok(&format!("{run} {way} -o {host}"));
        bench.ok(&format!("{run} {way} --rpc {} -ngl 99 -o out.gguf", worker.address));
        assert!(bench.read(host) == bench.read("out.gguf"), "{way}");
    }
    bench.fails(
        &format!("{run} --sum-on device --accumulate f64 -o out2.gguf"),
        &["--sum-on device cannot be combined with --accumulate f64"],
    );
}

#[test]
fn a_bad_chunk_on_a_worker_is_discarded() {
    let Some(worker) = Worker::start() else { return };
    let bench = Bench::new(&["llama-nan-token"]);
    let run = "-m llama-nan-token.gguf -f calibration.txt -c 64 -b 64";
    let on_host = bench.ok(&format!("{run} -o host.gguf"));
    let bad = |ran: &Ran| ran.stderr.lines().find(|line| line.contains("chunk discarded")).unwrap().to_owned();
    for way in ["--sum-on device".to_owned(), format!("--rpc {} -ngl 99", worker.address)] {
        for lanes in [1, 2] {
            let ran = bench.ok(&format!("{run} {way} --lanes {lanes} -o out.gguf"));
            assert_eq!(bad(&ran), bad(&on_host), "{way}");
            close(&load(&bench, "host.gguf"), &load(&bench, "out.gguf"), &way);
        }
    }
}

/// Passes connections on to `address` and counts the bytes of both directions.
fn counted(address: &str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let (address, bytes) = (address.to_owned(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&bytes);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&address).unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        counter.fetch_add(n as u64, Ordering::Relaxed);
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (own, bytes)
}

#[test]
fn only_sums_and_graphs_cross_the_network() {
    let Some(worker) = Worker::start() else { return };
    let (address, bytes) = counted(&worker.address);
    let bench = Bench::new(&["llama", "qwen3moe"]);
    for model in ["llama", "qwen3moe"] {
        // What a chunk more takes.
        let per_chunk = |flags: &str| {
            let run = |chunks: u64| {
                let before = bytes.load(Ordering::Relaxed);
                let run = format!("-m {model}.gguf -f calibration.txt -c 512 -b 512 --rpc {address} -ngl 99 --lanes 1");
                bench.ok(&format!("{run} --chunks {chunks} --state-interval 0 -o out.gguf {flags}"));
                bytes.load(Ordering::Relaxed) - before
            };
            (run(4) - run(2)) / 2
        };
        let (fetched, summed) = (per_chunk("--sum-on host"), per_chunk(""));
        eprintln!("{model}: {fetched} bytes a chunk fetched, {summed} summed there");
        // Embeddings and masks are sent in both.
        assert!(summed * 2 < fetched, "{model}: {summed} bytes a chunk, {fetched} with activations fetched");
    }
}

#[test]
fn a_worker_that_dies_leaves_a_run_to_resume() {
    let Some(mut worker) = Worker::start() else { return };
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(60_000, 3).as_bytes());
    let run = "-m llama.gguf -f long.txt -c 64 -b 64 -ngl 99 --lanes 1";
    let mut command = bench.command(&format!("{run} --rpc {}", worker.address));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !bench.path("imatrix.gguf.state").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no save in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    worker.kill();
    let output = child.wait_with_output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{says}");
    let message = format!("error: RPC server '{}' is gone", worker.address);
    assert!(says.contains(&message), "{says}");
    assert!(says.contains("is in 'imatrix.gguf.state'; hint: --resume continues it"), "{says}");
    // On another worker, or on none.
    let chunks = llama_imatrix::state::State::load(bench.path("imatrix.gguf.state")).unwrap().progress.done.len();
    let other = Worker::start().unwrap();
    let ran = bench.ok(&format!("{run} --rpc {} --resume", other.address));
    assert!(ran.stderr.contains(&format!("chunks 1-{chunks} are done")) || chunks == 1, "{}", ran.stderr);
    // Exact sums: over so many chunks the host's in f32 are off by more than the device's are.
    bench.ok(&format!("{run} --accumulate f64 -o whole.gguf"));
    close(&load(&bench, "whole.gguf"), &load(&bench, "imatrix.gguf"), "resumed");
}

#[test]
fn peers_that_are_not_workers_are_refused() {
    let bench = Bench::new(&["llama"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let run = "-m llama.gguf -f calibration.txt -c 64 --chunks 2";
    let says = format!("RPC server '{address}': it does not answer as an RPC server of this version of ggml does");
    bench.fails(&format!("{run} --rpc {address}"), &[&says]);
    // ggml would abort the process.
    for endpoint in ["::1:50052", "[::1]:50052", "127.0.0.1", "127.0.0.1:"] {
        bench.fails(&format!("{run} --rpc {endpoint}"), &[&format!("RPC server '{endpoint}': ")]);
    }
}

/// A worker that gets no more memory than it has.
#[cfg(target_os = "linux")]
#[test]
fn a_worker_without_memory_is_an_error_with_a_hint() {
    let Some(worker) = Worker::start() else { return };
    let pid = worker.child.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    let limit = format!("--as={}", (kib + 8 * 1024) * 1024);
    match Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status() {
        Ok(status) if status.success() => {}
        other => {
            support::cannot_test(&format!("no prlimit ({other:?})"));
            return;
        }
    }
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(60_000, 3).as_bytes());
    // Keys and values of so many tokens take 24 MiB.
    let run = "-m llama.gguf -f long.txt -c 32768 -b 32768 -ub 64 --chunks 1";
    let says =
        ["cannot create a context of 32768 tokens", "to allocate", "fewer layers on the device (--n-gpu-layers)"];
    bench.fails(&format!("{run} --rpc {} -ngl 99", worker.address), &says);
}

#[cfg(unix)]
#[test]
fn a_worker_stops_when_it_is_told_and_warns_when_it_is_open() {
    let Some(mut worker) = Worker::start_with(|command| {
        command.args(["--host", "0.0.0.0"]);
    }) else {
        return;
    };
    let status = Command::new("kill").args(["-TERM", &worker.child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut says = String::new();
    worker.child.stderr.take().unwrap().read_to_string(&mut says).unwrap();
    assert_eq!(worker.child.wait().unwrap().code(), Some(0), "{says}");
    assert!(says.contains("the protocol has no authentication"), "{says}");
    assert!(says.contains("interrupted by SIGTERM"), "{says}");
}

#[test]
fn a_worker_refuses_unknown_devices_bad_values_and_taken_ports() {
    let bench = Bench::new(&[]);
    bench.fails("worker --device CUDA7", &["unknown device 'CUDA7', expected one of "]);
    bench.fails("worker --port 0", &["0 is not in 1..=65535"]);
    bench.fails("worker --threads 0", &["0 is not in 1..=65535"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = bench.run(&format!("worker --port {port}"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("not supported in this build") || ran.stderr.contains("stopped listening"), "{ran:?}");
}
