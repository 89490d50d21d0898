//! The first message of ggml's RPC protocol: a client says hello, and the server answers with its version.
//!
//! Only std is used here, since the fuzzer compiles this file alone.

use std::fmt;
use std::io::{self, Read, Write};

/// The protocol of the ggml that is linked, `RPC_PROTO_MAJOR_VERSION` and `_MINOR_` of its `ggml-rpc.h`. The bindings
/// have neither, and ggml aborts the process at another major version or a later minor one.
pub(crate) const PROTOCOL: (u8, u8) = (7, 0);
/// The command that opens a connection.
pub(crate) const HELLO: u8 = 14;
/// Bytes in which each side says what its transport can do.
pub(crate) const CAPABILITIES: usize = 24;
/// Sizes that an answer may announce: at least the version, and at most what later protocols may add to it.
const ANSWER_BYTES: std::ops::RangeInclusive<u64> = 3..=256;

/// Reason why a peer cannot be used as an RPC server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No complete answer arrived in time.
    NoAnswer,
    /// The peer closed the connection, or answered something else than an RPC server does.
    NoServer,
    /// The peer speaks another version of the protocol.
    Version(u8, u8),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = PROTOCOL;
        match self {
            Self::NoAnswer => f.write_str("no answer in time: is it busy with another client?"),
            Self::NoServer => f.write_str("it does not answer as an RPC server of this version of ggml does"),
            Self::Version(theirs, after) => {
                write!(f, "it speaks version {theirs}.{after} of the protocol, this program {major}.{minor}")
            }
        }
    }
}

/// Says hello as ggml does, and checks the version in the answer.
pub(crate) fn greet(stream: &mut (impl Read + Write)) -> Result<(), Refused> {
    let mut hello = vec![HELLO];
    hello.extend((CAPABILITIES as u64).to_le_bytes());
    hello.extend([0; CAPABILITIES]);
    let answer = stream.write_all(&hello).and_then(|()| read_version(stream));
    let (major, minor) = answer.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Refused::NoAnswer,
        _ => Refused::NoServer,
    })?;
    if major == PROTOCOL.0 && minor <= PROTOCOL.1 { Ok(()) } else { Err(Refused::Version(major, minor)) }
}

/// Reads the size of the answer, then major, minor and patch version. The rest of the answer is left unread.
fn read_version(stream: &mut impl Read) -> io::Result<(u8, u8)> {
    let mut size = [0; 8];
    stream.read_exact(&mut size)?;
    if !ANSWER_BYTES.contains(&u64::from_le_bytes(size)) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut version = [0; 3];
    stream.read_exact(&mut version)?;
    Ok((version[0], version[1]))
}
