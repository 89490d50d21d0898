//! Brings a large file to the disk while the rest of it is still being written.
//!
//! The system may keep gigabytes before it begins by itself, and the sync at the end then waits for
//! all of them with nothing else left to do.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes between two syncs. A smaller file is synced once, at the end.
const STEP: u64 = 64 << 20;

/// A file that another thread syncs from time to time.
#[derive(Debug)]
pub(crate) struct EarlySync {
    file: File,
    /// Written since the last time the thread was told.
    unsynced: u64,
    thread: Option<Syncing>,
}

#[derive(Debug)]
struct Syncing {
    /// Full while the thread has yet to begin what it was told last.
    tell: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl EarlySync {
    pub(super) fn new(file: File) -> Self {
        Self { file, unsynced: 0, thread: None }
    }

    /// Waits until all is on the disk.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(Syncing { tell, thread }) = self.thread.take() {
            drop(tell);
            // The system reports a failed write to one sync only: this result is not to be lost.
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        self.file.sync_all()
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.unsynced += bytes as u64;
        if self.unsynced < STEP {
            return Ok(());
        }
        self.unsynced = 0;
        if self.thread.is_none() {
            let file = self.file.try_clone()?;
            let (tell, told) = sync_channel(1);
            let thread = thread::Builder::new().name("sync".to_owned()).spawn(move || sync_when_told(&file, &told))?;
            self.thread = Some(Syncing { tell, thread });
        }
        if let Some(Syncing { tell, .. }) = &self.thread {
            // Full: it will see these bytes, too. Gone: it failed, and `finish` says how.
            let _ = tell.try_send(());
        }
        Ok(())
    }
}

fn sync_when_told(file: &File, told: &Receiver<()>) -> io::Result<()> {
    told.iter().try_for_each(|()| file.sync_data())
}

impl Write for EarlySync {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.wrote(written)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for EarlySync {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_while_syncing_arrives() {
        let mut kept = tempfile::tempfile().unwrap();
        let mut file = EarlySync::new(kept.try_clone().unwrap());
        let block: Vec<u8> = (0..1_u32 << 20).map(|i| (i % 251) as u8).collect();
        for _ in 0..=2 * STEP / block.len() as u64 {
            file.write_all(&block).unwrap();
        }
        assert!(file.thread.is_some());
        file.seek(SeekFrom::Start(3)).unwrap();
        file.write_all(b"patched").unwrap();
        file.finish().unwrap();
        let mut bytes = Vec::new();
        kept.seek(SeekFrom::Start(0)).unwrap();
        io::Read::read_to_end(&mut kept, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, 2 * STEP + block.len() as u64);
        assert_eq!(&bytes[..12], [0, 1, 2, b'p', b'a', b't', b'c', b'h', b'e', b'd', 10, 11]);
        assert!(bytes.chunks(block.len()).skip(1).all(|part| part == block));
    }
}
