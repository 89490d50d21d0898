//! What a peer may answer to the greeting of ggml's RPC: it is a server of our version, or refused, and never reads past
//! what is known of the answer.
#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;

// The module uses std alone, so that no llama.cpp is compiled for this.
#[path = "../../src/llama/rpc/greeting.rs"]
mod greeting;

use greeting::{CAPABILITIES, HELLO, PROTOCOL, greet};

/// Answers with bytes as they are, a few at a time, and keeps what it is sent.
struct Peer<'a> {
    answer: &'a [u8],
    read: usize,
    at_once: usize,
    sent: Vec<u8>,
}

impl Read for Peer<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = into.len().min(self.at_once).min(self.answer.len() - self.read);
        into[..n].copy_from_slice(&self.answer[self.read..][..n]);
        self.read += n;
        Ok(n)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&at_once, answer)) = data.split_first() else { return };
    let mut peer = Peer { answer, read: 0, at_once: usize::from(at_once).max(1), sent: Vec::new() };
    let result = greet(&mut peer);
    assert_eq!(peer.sent.len(), 1 + 8 + CAPABILITIES);
    assert_eq!(peer.sent[0], HELLO);
    assert!(peer.read <= 8 + 3, "read past the version");
    let size = answer.first_chunk().map(|size| u64::from_le_bytes(*size));
    let version = answer.get(8..11).map(|version| (version[0], version[1]));
    let ours = |(major, minor): (u8, u8)| major == PROTOCOL.0 && minor <= PROTOCOL.1;
    let accepted = size.is_some_and(|size| (3..=256).contains(&size)) && version.is_some_and(ours);
    assert_eq!(result.is_ok(), accepted, "{result:?}");
    if let Err(refused) = result {
        assert!(!refused.to_string().is_empty());
    }
});
