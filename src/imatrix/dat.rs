//! The legacy `.dat` format: averages of squared activations, times a number of calls.
//!
//! All numbers are little-endian: the number of entries (i32); per entry the length of its name (i32), the name, the calls
//! (i32), the number of values (i32) and the values (f32); then the number of chunks (i32), the length of the last dataset's
//! name (i32) and that name.

use std::collections::BTreeMap;
use std::io;

use super::{Entry, Error, Filled, Imatrix, Loaded, Numbers, Slice, Values};
use crate::gguf::cursor::Cursor;

/// Size of the shortest entry: an empty name, calls and one value.
const SHORTEST_ENTRY: u64 = 4 + 4 + 4 + 4;
/// Numbers that are converted to bytes at once.
const BLOCK: usize = 1 << 16;
/// Maximum length of a name in a file. llama.cpp's tensor names have at most 63 bytes.
const MAX_NAME: i32 = 1024;

pub(super) fn read(bytes: &[u8]) -> Result<Loaded<Slice<'_>>, Error> {
    let mut cursor = Cursor::new(bytes);
    let n_entries = cursor.i32("number of legacy entries")?;
    let limit = cursor.left() / SHORTEST_ENTRY;
    if n_entries < 1 || n_entries as u64 > limit {
        return Err(Error::DatEntries { found: n_entries, limit });
    }
    let mut entries = BTreeMap::new();
    for entry in 1..=n_entries {
        read_entry(&mut cursor, entry, &mut entries)?;
    }
    let mut loaded = Loaded {
        entries,
        datasets: Vec::new(),
        chunk_count: 0,
        chunk_size: 0,
        n_layer_nextn: 0,
        is_legacy: true,
        has_metadata: false,
        filled: Filled::new(),
    };
    // Later versions of the format added the rest, so a file may end here or after the chunks.
    if cursor.left() > 0 {
        loaded.chunk_count = cursor.i32("number of chunks")?;
    }
    if cursor.left() > 0 {
        let length = cursor.i32("length of the dataset's name")?;
        if length > 0 {
            let name = cursor.take("name of the dataset", length as u64)?;
            loaded.datasets.push(String::from_utf8_lossy(c_str(name)).into_owned());
        }
    }
    Ok(loaded)
}

fn read_entry<'f>(
    cursor: &mut Cursor<'f>,
    entry: i32,
    entries: &mut BTreeMap<String, Entry<Slice<'f>>>,
) -> Result<(), Error> {
    let name_len = bounded(cursor, entry, "name length", 0, MAX_NAME)?;
    let name = c_str(cursor.take("name of an entry", name_len as u64)?);
    let name = std::str::from_utf8(name)
        .map_err(|_| Error::DatName { entry, text: String::from_utf8_lossy(name).into_owned() })?;
    let calls = bounded(cursor, entry, "number of calls", 0, i32::MAX)?;
    let n = bounded(cursor, entry, "number of values", 1, i32::MAX)?;
    let data = cursor.take("values of an entry", n as u64 * 4)?;
    let read = Entry { sum2: Slice::of_bytes(data), sum: None, counts: vec![calls.into()] };
    match entries.insert(name.to_owned(), read) {
        None => Ok(()),
        Some(_) => Err(Error::DuplicateEntry(name.to_owned())),
    }
}

/// Reads a number from `min` to `max`.
fn bounded(cursor: &mut Cursor<'_>, entry: i32, what: &'static str, min: i32, max: i32) -> Result<i32, Error> {
    let found = cursor.i32(what)?;
    if (min..=max).contains(&found) { Ok(found) } else { Err(Error::DatLength { entry, what, found, min, max }) }
}

/// Returns the bytes up to the first zero: upstream reads these texts as C strings.
fn c_str(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

pub(super) fn write(imatrix: &Imatrix<Numbers<'_>>, mut w: impl io::Write) -> Result<(), Error> {
    let has_data = |e: &Entry<_>| e.counts.iter().any(|&c| c != 0);
    let stored: Vec<_> = imatrix.entries.iter().filter(|(_, e)| has_data(e)).collect();

    put(&mut w, length("number of entries", stored.len())?)?;
    for (name, entry) in stored {
        put(&mut w, length("length of an entry's name", name.len())?)?;
        w.write_all(name.as_bytes())?;
        let calls = calls(entry, imatrix.chunk_size);
        put(&mut w, calls)?;
        put(&mut w, length("number of values", entry.sum2.len())?)?;
        write_averages(&mut w, entry, calls)?;
    }
    put(&mut w, imatrix.chunk_count)?;
    let dataset = imatrix.datasets.last().map_or("", String::as_str);
    put(&mut w, length("length of the dataset's name", dataset.len())?)?;
    w.write_all(dataset.as_bytes())?;
    w.flush()?;
    Ok(())
}

/// Returns the largest count in chunks, rounded up so that a small count does not become zero.
fn calls(entry: &Entry<Numbers<'_>>, chunk_size: i32) -> i32 {
    let chunk_size = i64::from(chunk_size);
    let most = entry.counts.iter().copied().max().unwrap_or(0);
    (most.saturating_add(chunk_size - 1) / chunk_size) as i32
}

fn write_averages(w: &mut impl io::Write, entry: &Entry<Numbers<'_>>, calls: i32) -> io::Result<()> {
    let Some(row) = entry.row_len().filter(|&row| row > 0) else {
        return Ok(());
    };
    let mut numbers = vec![0.0; BLOCK.min(entry.sum2.len())];
    let mut bytes = vec![0; numbers.len() * 4];
    for at in (0..entry.sum2.len()).step_by(BLOCK) {
        let values = &mut numbers[..BLOCK.min(entry.sum2.len() - at)];
        entry.sum2.read(at, values);
        average(values, at, row, entry, calls);
        let out = &mut bytes[..values.len() * 4];
        for (to, x) in out.as_chunks_mut().0.iter_mut().zip(values) {
            *to = x.to_le_bytes();
        }
        w.write_all(out)?;
    }
    Ok(())
}

/// Converts the sums from `at` on to averages times calls.
fn average(mut values: &mut [f32], mut at: usize, row: usize, entry: &Entry<Numbers<'_>>, calls: i32) {
    while !values.is_empty() {
        let (of_matrix, rest) = values.split_at_mut((row - at % row).min(values.len()));
        // All averages of a matrix without rows are 1.
        match entry.counts.get(at / row) {
            None | Some(0) => of_matrix.fill(1.0 * calls as f32),
            Some(&count) => of_matrix.iter_mut().for_each(|x| *x = *x / count as f32 * calls as f32),
        }
        at += of_matrix.len();
        values = rest;
    }
}

fn length(what: &'static str, found: usize) -> Result<i32, Error> {
    i32::try_from(found).map_err(|_| Error::DatLimit { what, found })
}

fn put(w: &mut impl io::Write, n: i32) -> io::Result<()> {
    w.write_all(&n.to_le_bytes())
}
