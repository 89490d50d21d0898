//! Workers that say nothing: those that are stopped, and those that are slow.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use super::workers::Worker;
use super::*;

/// Activations are fetched and summed here, in the order of a run that nothing has stopped.
const RUN: &str = "-m llama.gguf -f long.txt -c 64 -b 64 -ngl 99 --lanes 1 --sum-on host";

fn bench() -> Bench {
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(60_000, 3).as_bytes());
    bench
}

/// A run on `worker` that has saved its state once.
fn start(bench: &Bench, worker: &Worker, flags: &str) -> Child {
    let mut command = bench.command(&format!("{RUN} --rpc {} {flags}", worker.address));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !bench.path("imatrix.gguf.state").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no save in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The end of a run that has to come within `limit`.
fn end_within(mut child: Child, limit: Duration) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > limit {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("it still ran after {limit:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_stopped_worker_ends_the_run_in_time_and_it_resumes_to_the_same_bytes() {
    let Some(worker) = Worker::start() else { return };
    let bench = bench();
    bench.ok(&format!("{RUN} --rpc {} -o whole.gguf", worker.address));
    let run = start(&bench, &worker, "--rpc-timeout 2");
    signal(&worker.child, "STOP");
    let output = end_within(run, Duration::from_secs(20));
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{says}");
    assert!(says.contains(&format!("error: RPC server '{}' has not answered for 2 seconds", worker.address)), "{says}");
    assert!(says.contains("is in 'imatrix.gguf.state'; hint: --resume continues it"), "{says}");
    assert!(says.contains("hint: --rpc-timeout N"), "{says}");
    // It is free for the next client as soon as it goes on.
    signal(&worker.child, "CONT");
    bench.ok(&format!("{RUN} --rpc {} --resume", worker.address));
    assert!(bench.read("imatrix.gguf") == bench.read("whole.gguf"));
}

#[test]
fn the_first_signal_ends_the_wait_for_a_stopped_worker() {
    let Some(worker) = Worker::start() else { return };
    let bench = bench();
    let run = start(&bench, &worker, "--rpc-timeout 600");
    signal(&worker.child, "STOP");
    std::thread::sleep(Duration::from_secs(1));
    signal(&run, "INT");
    let output = end_within(run, Duration::from_secs(40));
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{says}");
    assert!(says.contains("finishing the current batch, then saving; Ctrl-C again to quit without saving"), "{says}");
    let message = format!("error: interrupted: RPC server '{}' has not answered for ", worker.address);
    assert!(says.contains(&message), "{says}");
    assert!(says.contains("is in 'imatrix.gguf.state'; hint: --resume continues it"), "{says}");
    signal(&worker.child, "CONT");
}

/// Passes connections on to `address`, each graph after a pause: a worker that takes its time to compute.
fn slowed(address: &str, pause: Duration) -> String {
    const GRAPH_COMPUTE: u8 = 10;
    const GRAPH_RECOMPUTE: u8 = 16;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let address = address.to_owned();
    let requests = move |mut client: TcpStream, mut server: TcpStream| {
        let mut head = [0; 9];
        while client.read_exact(&mut head).is_ok() {
            let mut body = vec![0; u64::from_le_bytes(head[1..].try_into().unwrap()) as usize];
            client.read_exact(&mut body)?;
            if [GRAPH_COMPUTE, GRAPH_RECOMPUTE].contains(&head[0]) {
                std::thread::sleep(pause);
            }
            server.write_all(&head)?;
            server.write_all(&body)?;
        }
        server.shutdown(std::net::Shutdown::Both)
    };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&address).unwrap();
            let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || requests(client, server));
            std::thread::spawn(move || {
                let (mut from, mut to) = (server_too, client_too);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    own
}

/// All graphs of a chunk are sent at once, and take longer than the worker may be silent: what is known of it in between is
/// that it answers when it is asked to.
#[test]
fn a_slow_worker_does_not_count_as_silent() {
    let Some(worker) = Worker::start() else { return };
    let bench = bench();
    let slow = slowed(&worker.address, Duration::from_millis(300));
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 -ngl 99 --lanes 1 --chunks 2 --no-ppl";
    bench.ok(&format!("{run} --rpc {} -o fast.gguf", worker.address));
    let started = Instant::now();
    bench.ok(&format!("{run} --rpc {slow} --rpc-timeout 8 -o slow.gguf"));
    assert!(
        started.elapsed() > Duration::from_secs(16),
        "a chunk took less than the time-out: {:?}",
        started.elapsed()
    );
    assert!(bench.read("fast.gguf") == bench.read("slow.gguf"));
}
