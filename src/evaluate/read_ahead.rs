//! Reads weights from the model's files shortly before they are used, if the model does not fit into memory.
//!
//! llama.cpp maps the files. A product that touches a page that is not in memory waits for the disk, and while all
//! threads compute, the disk is idle. A thread of our own therefore reads the weights ahead of the products, in the order
//! of the layers, in large pieces. It reads into a buffer that is not used: what matters is that the pages are in memory
//! afterwards.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::gguf;

/// Bytes per read.
const PIECE: u64 = 1 << 20;

/// What to read ahead: see [`RunOptions::read_ahead`](super::RunOptions::read_ahead).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAhead {
    /// The model's files.
    pub files: Vec<PathBuf>,
    /// Maximum number of bytes read before they are used.
    pub window: u64,
    /// Tensors that are not read: those of which an evaluation uses some rows or matrices alone.
    pub without: Vec<String>,
}

/// A reader that follows the evaluations of one context. Dropping the last handle ends its thread.
#[derive(Debug, Clone)]
pub(super) struct Reader(Arc<Thread>);

#[derive(Debug)]
struct Thread {
    shared: Arc<Shared>,
    /// Place of each weight in the order of reading, in bytes from the first.
    starts: HashMap<String, u64>,
    total: u64,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    moved: Condvar,
}

/// Positions count on from one evaluation to the next, as if the weights followed each other in an endless file.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    /// Start of the weight that is being used.
    used: u64,
    /// Number of evaluations that have ended.
    evaluations: u64,
    ended: bool,
}

/// A part of a file that holds a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    file: usize,
    offset: u64,
    len: u64,
    name: String,
}

impl Reader {
    /// Starts the thread. `None` if a file cannot be read: then nothing is read ahead.
    pub(super) fn start(options: &ReadAhead) -> Option<Self> {
        let parts = parts(&options.files, &options.without)?;
        let files = options.files.iter().map(File::open).collect::<Result<Vec<_>, _>>().ok()?;
        let mut total = 0;
        let mut starts = HashMap::new();
        for part in &parts {
            starts.insert(part.name.clone(), total);
            total += part.len;
        }
        if total == 0 {
            return None;
        }
        let shared = Arc::new(Shared::default());
        let (window, theirs) = (options.window, Arc::clone(&shared));
        let work = move || read(files, &parts, total, window, &theirs);
        let handle = std::thread::Builder::new().name("read-ahead".to_owned()).spawn(work).ok()?;
        Some(Self(Arc::new(Thread { shared, starts, total, handle: Some(handle) })))
    }

    /// Notes that the evaluation has come to a weight.
    pub(super) fn comes_to(&self, weight: &str) {
        let Some(start) = self.0.starts.get(weight) else { return };
        let mut progress = self.0.shared.lock();
        progress.used = progress.evaluations * self.0.total + start;
        drop(progress);
        self.0.shared.moved.notify_all();
    }

    /// Notes that the evaluation has ended: the next one begins with the first weight.
    pub(super) fn end_evaluation(&self) {
        let mut progress = self.0.shared.lock();
        progress.evaluations += 1;
        progress.used = progress.evaluations * self.0.total;
        drop(progress);
        self.0.shared.moved.notify_all();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.moved.notify_all();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the bytes at `next` are to be read. Returns where the evaluation is, or `None` at the end.
    fn wait_for(&self, next: u64, window: u64) -> Option<u64> {
        let mut progress = self.lock();
        while !progress.ended && next >= progress.used + window {
            progress = self.moved.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        (!progress.ended).then_some(progress.used)
    }
}

/// Reads until the end. An error ends it early: the products then read their weights themselves.
fn read(mut files: Vec<File>, parts: &[Part], total: u64, window: u64, shared: &Shared) {
    let mut buffer = vec![0; PIECE as usize];
    let mut next = 0;
    while let Some(used) = shared.wait_for(next, window) {
        // If the products are faster than the disk, go on where they are.
        next = next.max(used);
        let Some((file, offset, len)) = piece(parts, next % total) else { return };
        let (file, buffer) = (&mut files[file], &mut buffer[..len as usize]);
        if file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buffer)).is_err() {
            return;
        }
        next += len;
    }
}

/// Returns file, offset and length of the piece at `position` in the order of reading.
fn piece(parts: &[Part], position: u64) -> Option<(usize, u64, u64)> {
    let mut start = 0;
    for part in parts {
        if position < start + part.len {
            let within = position - start;
            return Some((part.file, part.offset + within, (part.len - within).min(PIECE)));
        }
        start += part.len;
    }
    None
}

/// Returns the weights in the order of their layers, and within a layer in file order. The output matrix comes last.
fn parts(files: &[PathBuf], without: &[String]) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    for (file, path) in files.iter().enumerate() {
        let read = gguf::File::open(path).ok()?;
        let weights = read.places().filter(|(name, place)| !place.is_empty() && !without.iter().any(|out| out == name));
        parts.extend(weights.map(|(name, place)| Part {
            file,
            offset: place.start as u64,
            len: place.len() as u64,
            name: name.to_owned(),
        }));
    }
    parts.sort_by_key(|part| (layer(&part.name), part.file, part.offset));
    Some(parts)
}

/// Returns the number of a weight's layer; a large one for weights outside of the layers.
fn layer(name: &str) -> u32 {
    let number = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, file: usize, offset: u64, len: u64) -> Part {
        Part { file, offset, len, name: name.to_owned() }
    }

    #[test]
    fn pieces_end_with_their_weight() {
        let parts = [part("blk.0.a", 0, 100, 10), part("blk.0.b", 1, 500, PIECE + 5)];
        assert_eq!(piece(&parts, 0), Some((0, 100, 10)));
        assert_eq!(piece(&parts, 4), Some((0, 104, 6)));
        assert_eq!(piece(&parts, 10), Some((1, 500, PIECE)));
        assert_eq!(piece(&parts, 10 + PIECE), Some((1, 500 + PIECE, 5)));
        assert_eq!(piece(&parts, 15 + PIECE), None);
    }

    #[test]
    fn the_reader_stays_within_its_window_and_wraps_around() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let mut writer = gguf::Writer::new();
        let values = vec![0.5_f32; 1 << 18];
        for name in ["output.weight", "blk.10.w", "blk.2.w", "token_embd.weight"] {
            writer.f32_tensor(name, &[1 << 18], values.as_slice()).unwrap();
        }
        let mut file = File::create(&path).unwrap();
        writer.write_to(&mut file).unwrap();
        let files = vec![path];
        let all = parts(&files, &["token_embd.weight".to_owned()]).unwrap();
        let names: Vec<_> = all.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["blk.2.w", "blk.10.w", "output.weight"]);

        let reader = Reader::start(&ReadAhead { files, window: PIECE, without: Vec::new() }).unwrap();
        let total = reader.0.total;
        assert_eq!(total, 4 << 20);
        reader.comes_to("blk.10.w");
        assert_eq!(reader.0.shared.lock().used, 1 << 20);
        reader.comes_to("unknown");
        reader.end_evaluation();
        assert_eq!(reader.0.shared.lock().used, total);
        reader.comes_to("blk.10.w");
        assert_eq!(reader.0.shared.lock().used, total + (1 << 20));
        // Within the window it returns at once; beyond, only once the evaluation has moved on.
        assert_eq!(reader.0.shared.wait_for(total + (1 << 20), PIECE), Some(total + (1 << 20)));
        let shared = Arc::clone(&reader.0.shared);
        let waits = std::thread::spawn(move || shared.wait_for(total + (2 << 20), PIECE));
        reader.comes_to("output.weight");
        assert!(waits.join().unwrap().is_some());
        drop(reader);
    }
}
