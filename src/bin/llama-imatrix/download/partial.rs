//! What a download has brought so far. It lies beside the place it goes to and outlives its process, so that a later try
//! goes on from it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use fs4::fs_std::FileExt as _;

/// Bytes after which what has come is synced, and a note of it taken.
const NOTE_EVERY: u64 = 64 << 20;

/// Number of bytes received, and of which version of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Bytes that are on the disk.
    pub(super) len: u64,
    /// The version's strong `ETag`.
    pub(super) etag: Option<String>,
}

/// A file that is being downloaded: `.NAME.download`, with a note `.NAME.download.note` of what is in it.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    note: Note,
    len: u64,
}

impl Note {
    /// The note of an earlier try, if one was left with what it is a note of.
    pub(super) fn of(target: &Path) -> Option<Self> {
        let text = fs::read_to_string(note_path(target)).ok()?;
        let (len, etag) = text.strip_suffix('\n')?.split_once('\n').unwrap_or((text.trim_end(), ""));
        let note = Self { len: len.parse().ok()?, etag: Some(etag.to_owned()).filter(|etag| !etag.is_empty()) };
        let there = fs::metadata(path_of(target)).ok()?;
        (note.len > 0 && there.is_file() && there.len() >= note.len).then_some(note)
    }

    fn write(&self, target: &Path) -> io::Result<()> {
        fs::write(note_path(target), format!("{}\n{}\n", self.len, self.etag.as_deref().unwrap_or_default()))
    }
}

impl Partial {
    /// Takes the file, for this process alone, with the first `note.len` bytes in it.
    pub(super) fn open(target: &Path, note: Note) -> anyhow::Result<Self> {
        let path = path_of(target);
        let shown = target.display();
        let Some(mut file) = lock(&path).with_context(|| format!("cannot write '{}'", path.display()))? else {
            bail!(
                "'{shown}' is being downloaded by another process (it holds '{}'); hint: wait for it",
                path.display()
            );
        };
        let placed = file.set_len(note.len).and_then(|()| file.seek(SeekFrom::Start(note.len)));
        placed.with_context(|| format!("cannot write '{}'", path.display()))?;
        Ok(Self { file, path, target: target.to_owned(), len: note.len, note })
    }

    /// Bytes that have come.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Calls `see` with what an earlier try has brought.
    pub(super) fn read(&mut self, mut see: impl FnMut(&[u8])) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 18];
        let mut left = (&self.file).take(self.len);
        loop {
            match left.read(&mut buffer)? {
                0 => break,
                n => see(&buffer[..n]),
            }
        }
        self.file.seek(SeekFrom::Start(self.len)).map(drop)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        if self.len - self.note.len >= NOTE_EVERY { self.keep() } else { Ok(()) }
    }

    /// Keeps the bytes, so that a later try continues here.
    pub(super) fn keep(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.note.len = self.len;
        self.note.write(&self.target)
    }

    /// Removes what has come.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(note_path(&self.target));
        let _ = fs::remove_file(&self.path);
    }

    /// The file is whole: puts it in its place. After a loss of power it is there as a whole, or not at all.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        let _ = fs::remove_file(note_path(&self.target));
        sync_folder(&self.target)
    }

    /// Removes what an earlier try has left, unless it is another process's that goes on.
    pub(super) fn clear(target: &Path) {
        if path_of(target).exists()
            && let Ok(partial) = Self::open(target, Note::default())
        {
            partial.discard();
        }
    }
}

fn path_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.download"))
}

fn note_path(target: &Path) -> PathBuf {
    let mut path = path_of(target).into_os_string();
    path.push(".note");
    path.into()
}

/// The locked file; `None` where another process has it. Where the file system knows no locks it is taken all the same.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        if matches!(file.try_lock_exclusive(), Ok(false)) {
            return Ok(None);
        }
        // A process that ended in between has put it in its place: then it is not to be written to any more.
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), path.metadata()), (Ok(ours), Ok(there)) if place(&ours) == place(&there))
}

/// Elsewhere an open file keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn sync_folder(target: &Path) -> io::Result<()> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Elsewhere folders cannot be synced.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_download_continues_from_the_noted_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.gguf");
        let mut first = Partial::open(&target, Note { len: 0, etag: Some("\"1\"".into()) }).unwrap();
        first.write(b"first").unwrap();
        first.keep().unwrap();
        first.write(b", not noted").unwrap();
        assert!(Partial::open(&target, Note::default()).is_err(), "one process at a time");
        drop(first); // as a kill would leave it
        let note = Note::of(&target).unwrap();
        assert_eq!(note, Note { len: 5, etag: Some("\"1\"".into()) });
        let mut second = Partial::open(&target, note).unwrap();
        let mut seen = Vec::new();
        second.read(|bytes| seen.extend_from_slice(bytes)).unwrap();
        assert_eq!(seen, b"first");
        second.write(b" and last").unwrap();
        second.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"first and last");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(Note::of(&target), None);
    }

    #[test]
    fn a_note_whose_partial_file_is_missing_or_shorter_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.gguf");
        Note { len: 5, etag: None }.write(&target).unwrap();
        assert_eq!(Note::of(&target), None);
        fs::write(path_of(&target), b"four").unwrap();
        assert_eq!(Note::of(&target), None);
        fs::write(path_of(&target), b"five.").unwrap();
        assert_eq!(Note::of(&target), Some(Note { len: 5, etag: None }));
        fs::write(note_path(&target), "5").unwrap(); // torn
        assert_eq!(Note::of(&target), None);
        Partial::clear(&target);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
