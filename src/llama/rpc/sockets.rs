//! Finds the sockets that ggml has opened among the files of this process, and sets their timeouts.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::time::Duration;

/// A second handle to a connection that ggml has open. Drop it soon: the connection does not end before.
pub(super) struct Socket {
    /// ggml's file descriptor of the connection.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there is no watchdog"))]
    pub(super) number: RawFd,
    pub(super) stream: TcpStream,
}

/// Returns all stream sockets of this process.
pub(super) fn all() -> Vec<Socket> {
    // Two steps: a duplicate of ours may get a number of the list that has become free, and must not count as a
    // connection.
    let sockets: Vec<_> = numbers().into_iter().filter(|&number| is_stream(number)).collect();
    sockets.into_iter().filter_map(open).collect()
}

/// Other files are not touched: closing a second handle to one would release its POSIX locks.
fn is_stream(number: RawFd) -> bool {
    option(number, libc::SOL_SOCKET, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_STREAM)
}

#[cfg(target_os = "linux")]
fn numbers() -> Vec<RawFd> {
    let Ok(files) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    files.flatten().filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
}

/// Fallback for systems without a list of open files: tries the lowest numbers, which are assigned first.
#[cfg(not(target_os = "linux"))]
fn numbers() -> Vec<RawFd> {
    (0..1024).collect()
}

fn open(number: RawFd) -> Option<Socket> {
    // SAFETY: the number is borrowed for this call alone, which duplicates it. If it has been closed or reused
    // meanwhile, the call fails or duplicates another file; it closes nothing. The duplicate is ours.
    let own = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().ok()?;
    Some(Socket { number, stream: TcpStream::from(own) })
}

impl Socket {
    fn is_listener(&self) -> bool {
        option(self.stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens != 0)
    }

    /// Turns on keep-alive: the system probes an idle connection, and ends it after `timeout` without an answer.
    /// Connections inherit the settings of the listener that accepts them.
    pub(super) fn give_up_after(&self, timeout: Duration) {
        let quarter = i32::try_from(timeout.as_secs() / 4).unwrap_or(i32::MAX).max(1);
        let mut options = vec![(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)];
        #[cfg(not(target_vendor = "apple"))]
        options.push((libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, quarter));
        #[cfg(target_vendor = "apple")]
        options.push((libc::IPPROTO_TCP, libc::TCP_KEEPALIVE, quarter));
        options.extend([(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, quarter), (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3)]);
        #[cfg(target_os = "linux")]
        options.push((
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        ));
        for (level, name, value) in options {
            // A setting that the system refuses is left out: the watchdog remains.
            let _ = set_option(self.stream.as_raw_fd(), level, name, value);
        }
    }

    /// Returns the number of bytes received, plus the bytes sent that the peer's system has acknowledged.
    #[cfg(target_os = "linux")]
    pub(super) fn traffic(&self) -> io::Result<u64> {
        /// The beginning of Linux's `struct tcp_info`: it only ever grows at its end.
        #[repr(C)]
        struct Info {
            bytes: [u8; 8],
            words: [u32; 24],
            pacing: [u64; 2],
            acked: u64,
            received: u64,
        }
        let mut info = std::mem::MaybeUninit::<Info>::zeroed();
        let mut len = size_of::<Info>() as libc::socklen_t;
        // SAFETY: the call writes at most `len` bytes, the size of the struct.
        let status = unsafe {
            let into = info.as_mut_ptr().cast();
            libc::getsockopt(self.stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut len)
        };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all fields are numbers, and zero if the call did not write them.
        let info = unsafe { info.assume_init() };
        Ok(info.acked.wrapping_add(info.received))
    }
}

/// Makes the server at `endpoint`, which is about to listen, drop clients whose machine has not answered for `timeout`.
pub(super) fn free_from_lost_clients(endpoint: &str, timeout: Duration) {
    /// After these passes the server listens, or has failed.
    const PASSES: u32 = 100;
    /// Passes after the listener is found, for clients that were accepted before it had its settings.
    const AFTER: u32 = 20;
    let Some(port) = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()) else { return };
    let set = move || {
        let mut left = PASSES;
        while left > 0 {
            left -= 1;
            for socket in all() {
                if socket.stream.local_addr().is_ok_and(|address| address.port() == port) {
                    socket.give_up_after(timeout);
                    if socket.is_listener() {
                        left = left.min(AFTER);
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let _ = std::thread::Builder::new().name("rpc-keepalive".to_owned()).spawn(set);
}

fn option(number: RawFd, level: i32, name: i32) -> io::Result<i32> {
    let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the call writes at most `len` bytes, the size of `value`. It fails if the file is no socket.
    let status = unsafe { libc::getsockopt(number, level, name, (&raw mut value).cast(), &raw mut len) };
    if status == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_option(number: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the call reads `len` bytes, the size of `value`.
    let status = unsafe { libc::setsockopt(number, level, name, (&raw const value).cast(), len) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_connection_is_found_with_its_settings_and_its_traffic() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let mut server = listener.accept().unwrap().0;
        let find = |number| all().into_iter().find(|socket| socket.number == number).unwrap();
        let own = client.local_addr().unwrap();
        let ours = |socket: &Socket| socket.stream.local_addr().is_ok_and(|address| address == own);
        assert_eq!(all().iter().filter(|socket| ours(socket)).count(), 1, "our own duplicates are not found again");
        assert!(find(listener.as_raw_fd()).is_listener());
        let found = find(client.as_raw_fd());
        assert!(!found.is_listener());
        assert_eq!(found.stream.peer_addr().unwrap(), address);
        found.give_up_after(Duration::from_secs(8));
        assert_eq!(option(client.as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE).unwrap().min(1), 1);
        #[cfg(target_os = "linux")]
        {
            assert_eq!(option(client.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_KEEPIDLE).unwrap(), 2);
            assert_eq!(option(client.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT).unwrap(), 8000);
            let before = found.traffic().unwrap();
            client.write_all(&[1; 5]).unwrap();
            server.read_exact(&mut [0; 5]).unwrap();
            server.write_all(&[1; 7]).unwrap();
            client.read_exact(&mut [0; 7]).unwrap();
            assert_eq!(found.traffic().unwrap() - before, 12);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (&mut client, &mut server);
    }
}
