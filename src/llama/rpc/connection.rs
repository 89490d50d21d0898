//! A TCP connection to a server with one deadline for all reads and writes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A TCP stream whose reads and writes fail once the deadline has passed, even if the peer keeps sending single bytes.
pub(super) struct Connection {
    stream: TcpStream,
    deadline: Instant,
}

impl Connection {
    /// Connects to the first of the endpoint's addresses that accepts.
    pub(super) fn open(endpoint: &str, timeout: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + timeout;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in addresses(endpoint)? {
            match left(deadline).and_then(|left| TcpStream::connect_timeout(&address, left)) {
                Ok(stream) => return Ok(Self { stream, deadline }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Returns the addresses of `host:port` that ggml can connect to. ggml supports IPv4 only, and aborts the process at an
/// endpoint that it cannot parse.
pub(super) fn addresses(endpoint: &str) -> io::Result<Vec<SocketAddr>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    if endpoint.matches(':').count() != 1 {
        return Err(invalid("expected HOST:PORT, and no IPv6 address: ggml's RPC connects over IPv4 alone"));
    }
    let addresses: Vec<_> = endpoint.to_socket_addrs()?.filter(SocketAddr::is_ipv4).collect();
    if addresses.is_empty() { Err(invalid("the host has no IPv4 address")) } else { Ok(addresses) }
}

/// Returns the time left until the deadline, never zero: `std` rejects a zero timeout.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(into)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
