//! Ends a connection that has had no traffic for too long while a thread of this process waits for it.
//!
//! The system of a stopped process still acknowledges data, so TCP's timeouts do not notice it. Linux shows which
//! system call each thread waits in, and how many bytes each connection has received and had acknowledged. The watchdog
//! uses both.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use super::super::log::{Level, say};
use super::sockets::{self, Socket};
use super::{Server, lost, servers};

/// The shortest time in which a server must answer a program that wants to end.
const HURRIED: Duration = Duration::from_secs(5);

/// Watches in a thread until the process ends.
pub(super) fn start(timeout: Duration, hurry: Arc<AtomicBool>) {
    static STARTED: Once = Once::new();
    if waited_for().is_none() {
        say(Level::Warn, "RPC: this system does not tell what threads wait for, so a silent server is not noticed\n");
        return;
    }
    STARTED.call_once(|| {
        let mut watchdog = Watchdog { timeout, hurry, connections: HashMap::new(), longest: Duration::ZERO };
        let _ = std::thread::Builder::new().name("rpc-watchdog".to_owned()).spawn(move || watchdog.watch());
    });
}

struct Watchdog {
    timeout: Duration,
    /// True once the program wants to end.
    hurry: Arc<AtomicBool>,
    /// Connections by local address, which is unique per connection.
    connections: HashMap<SocketAddr, Silence>,
    /// The longest silence that ended with an answer.
    longest: Duration,
}

/// Time without traffic on a connection that a thread waits for.
#[derive(Debug, Default)]
struct Silence {
    traffic: u64,
    lasted: Duration,
}

impl Silence {
    /// Records the traffic so far, `elapsed` after the last call. Returns the silence that has ended, if one has.
    fn note(&mut self, traffic: u64, waited_for: bool, elapsed: Duration) -> Option<Duration> {
        if traffic == self.traffic && waited_for {
            self.lasted += elapsed;
            return None;
        }
        self.traffic = traffic;
        Some(std::mem::take(&mut self.lasted))
    }
}

impl Watchdog {
    fn watch(&mut self) {
        let interval = (self.timeout / 8).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let mut last = Instant::now();
        loop {
            std::thread::sleep(interval);
            // Do not count time in which this process itself was stopped.
            let elapsed = last.elapsed().min(interval * 2);
            last = Instant::now();
            self.look(elapsed);
        }
    }

    fn look(&mut self, elapsed: Duration) {
        let servers = servers().clone();
        let waited_for = waited_for().unwrap_or_default();
        let mut seen = HashSet::new();
        for socket in sockets::all() {
            let Some((server, own)) = connection(&socket, &servers) else { continue };
            seen.insert(own);
            let silence = self.connections.entry(own).or_insert_with(|| {
                socket.give_up_after(self.timeout);
                Silence::default()
            });
            let Ok(traffic) = socket.traffic() else { continue };
            if let Some(ended) = silence.note(traffic, waited_for.contains(&socket.number), elapsed) {
                self.longest = self.longest.max(ended);
                continue;
            }
            if silence.lasted >= limit(self.timeout, self.hurry.load(Ordering::Relaxed), self.longest) {
                lost::found_silent(&server.endpoint, silence.lasted);
                // The thread that waits gets an error, and ggml aborts: see `lost`.
                let _ = socket.stream.shutdown(Shutdown::Both);
            }
        }
        self.connections.retain(|own, _| seen.contains(own));
    }
}

/// Returns the longest time without traffic that is allowed.
fn limit(timeout: Duration, hurry: bool, longest: Duration) -> Duration {
    if hurry { (longest * 4).max(HURRIED).min(timeout) } else { timeout }
}

/// Returns the server that a socket is connected to, and the socket's own address, if it is one of these servers.
fn connection<'s>(socket: &Socket, servers: &'s [Server]) -> Option<(&'s Server, SocketAddr)> {
    let peer = socket.stream.peer_addr().ok()?;
    let server = servers.iter().find(|server| server.addresses.contains(&peer))?;
    Some((server, socket.stream.local_addr().ok()?))
}

/// Returns the files that a thread of this process waits to receive from or to send to. `None` if the system does not
/// tell.
fn waited_for() -> Option<HashSet<RawFd>> {
    let mut told = false;
    let mut files = HashSet::new();
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let Ok(call) = fs::read_to_string(task.path().join("syscall")) else { continue };
        told = true;
        files.extend(transfer(&call));
    }
    told.then_some(files)
}

/// Returns the file of a `recv` or `send` in a line such as `45 0x7 0x7f65 ..`: the number of the system call and its
/// arguments.
fn transfer(call: &str) -> Option<RawFd> {
    let mut words = call.split(' ');
    let number: libc::c_long = words.next()?.parse().ok()?;
    if number != libc::SYS_recvfrom && number != libc::SYS_sendto {
        return None;
    }
    RawFd::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn silence_is_time_without_traffic_while_a_thread_waits() {
        let second = Duration::from_secs(1);
        let mut silence = Silence::default();
        assert_eq!(silence.note(10, true, second), Some(Duration::ZERO));
        assert_eq!(silence.note(10, true, second), None);
        assert_eq!(silence.note(10, true, second), None);
        assert_eq!(silence.lasted, 2 * second);
        assert_eq!(silence.note(11, true, second), Some(2 * second));
        assert_eq!(silence.note(11, true, second), None);
        // The client computes by itself.
        assert_eq!(silence.note(11, false, second), Some(second));
        assert_eq!(silence.lasted, Duration::ZERO);
    }

    #[test]
    fn a_hurried_limit_follows_the_longest_silence() {
        let seconds = Duration::from_secs;
        assert_eq!(limit(seconds(60), false, seconds(1)), seconds(60));
        assert_eq!(limit(seconds(60), true, seconds(1)), seconds(5));
        assert_eq!(limit(seconds(60), true, seconds(7)), seconds(28));
        assert_eq!(limit(seconds(60), true, seconds(50)), seconds(60));
        assert_eq!(limit(seconds(2), true, seconds(0)), seconds(2));
    }

    #[test]
    fn a_thread_that_waits_to_receive_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let number = client.as_raw_fd();
        let mut server = listener.accept().unwrap().0;
        assert!(!waited_for().unwrap().contains(&number));
        let waits = std::thread::spawn(move || client.read_exact(&mut [0]).map(|()| client));
        let started = Instant::now();
        while !waited_for().unwrap().contains(&number) {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        server.write_all(&[0]).unwrap();
        let client = waits.join().unwrap().unwrap();
        assert!(!waited_for().unwrap().contains(&client.as_raw_fd()));
    }
}
