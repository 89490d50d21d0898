//! The files of a calibration text, and their contents.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::encoding::{self, NotText, PROBE};
use super::error::Error;
use super::folder::files_of;
use super::jsonl::{self, Conversation, Record};
use super::note::Note;
use super::read::{Compression, explain, open};

/// A file or folder to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Path of the file or folder.
    pub path: PathBuf,
    /// Read the file as plain text up to its last byte, whatever its name: not as a folder, not decompressed, with its
    /// last line end.
    pub raw: bool,
}

/// Handling of consecutive plain texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One text, joined as by `cat`.
    Joined,
    /// One document per text.
    Apart,
}

/// Texts and conversations, in the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Names of the files, for the matrix: those of inputs as given, those in folders as paths.
    pub files: Vec<String>,
    /// Texts and conversations of the files.
    pub items: Vec<Item>,
    /// Notes to show to the user.
    pub notes: Vec<Note>,
}

/// A text or a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Index of its file.
    pub file: usize,
    /// Its line in a JSONL file, from 1; `None` for a file's whole text.
    pub line: Option<usize>,
    /// Content of the item.
    pub body: Body,
}

/// Content of an [`Item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Text, of any encoding.
    Text(Vec<u8>),
    /// Messages for a chat template.
    Conversation(Conversation),
}

impl Corpus {
    /// Creates a corpus of one text without a file.
    #[must_use]
    pub fn of_text(text: Vec<u8>) -> Self {
        let mut corpus = Self::default();
        if !text.is_empty() {
            corpus.note_invalid("the prompt", &text);
            corpus.items.push(Item { file: 0, line: None, body: Body::Text(text) });
        }
        corpus
    }

    /// Reads files, and all files in folders and their subfolders, in the order of their names, without hidden ones. A
    /// folder that several links lead to is read once.
    ///
    /// A file that is not text (NUL bytes, a GGUF file, UTF-16) is an error; in a folder it is skipped, with a
    /// [note](Self::notes). Bytes that are not UTF-8 give a note too.
    ///
    /// `.gz` and `.zst` files are decompressed. `.jsonl` files have one conversation or document per line: an object
    /// with `messages` (`role`, `content`), `conversations` (also `from`, `value`), a question and its answer
    /// (`instruction` and `output`, `prompt` and `completion`), or `text`. All other files are plain text.
    ///
    /// # Errors
    /// See [`Error`]: each names the file, and the line if there is one.
    pub fn read(inputs: &[Input], layout: Layout) -> Result<Self, Error> {
        let mut corpus = Self::default();
        // The last plain text, and whether a line end may be missing between it and the next.
        let mut open_text: Option<bool> = None;
        for Input { path, raw } in inputs {
            let is_folder = !raw && path.is_dir();
            let files = if is_folder { files_of(path)? } else { vec![path.clone()] };
            let before = corpus.files.len();
            for path in files {
                let name = path
                    .to_str()
                    .ok_or_else(|| Error::Rule(format!("the name of '{}' is not UTF-8", path.display())))?;
                let (compression, inner) = if *raw { (Compression::None, "") } else { Compression::of(name) };
                if is_jsonl(inner) {
                    corpus.files.push(name.to_owned());
                    corpus.close(&mut open_text);
                    corpus.read_lines(&path, compression)?;
                    continue;
                }
                let text = match read_all(&path, compression, *raw)? {
                    Contents::Text(text) => text,
                    Contents::Other(reason, text) if *raw => {
                        corpus.notes.push(Note::Raw { origin: name.to_owned(), reason });
                        text
                    }
                    Contents::Other(reason, _) if is_folder => {
                        corpus.notes.push(Note::Skipped { origin: name.to_owned(), reason });
                        continue;
                    }
                    Contents::Other(reason, _) => return Err(Error::NotText { path, reason }),
                };
                corpus.files.push(name.to_owned());
                corpus.note_invalid(name, &text);
                if open_text.is_none() || layout == Layout::Apart {
                    corpus.close(&mut open_text);
                    let file = corpus.files.len() - 1;
                    corpus.items.push(Item { file, line: None, body: Body::Text(text) });
                } else if let Some(Item { body: Body::Text(all), .. }) = corpus.items.last_mut() {
                    if open_text == Some(true) && !all.is_empty() && !all.ends_with(b"\n") {
                        all.push(b'\n');
                    }
                    all.extend_from_slice(&text);
                }
                open_text = Some(!raw);
            }
            if is_folder && corpus.files.len() == before {
                let path = path.display();
                return Err(Error::Rule(format!(
                    "the folder '{path}' holds no files that are text (hidden ones do not count)"
                )));
            }
        }
        corpus.close(&mut open_text);
        Ok(corpus)
    }

    fn note_invalid(&mut self, origin: &str, text: &[u8]) {
        if let Some(what) = encoding::invalid(text) {
            self.notes.push(Note::Invalid { origin: origin.to_owned(), what });
        }
    }

    /// Completes the last plain text: removes its last line end, and the text if it is then empty.
    fn close(&mut self, open_text: &mut Option<bool>) {
        let Some(drops_line_end) = open_text.take() else { return };
        let Some(Item { body: Body::Text(text), .. }) = self.items.last_mut() else { return };
        if drops_line_end && text.ends_with(b"\n") {
            text.pop();
        }
        if text.is_empty() {
            self.items.pop();
        }
    }

    fn read_lines(&mut self, path: &Path, compression: Compression) -> Result<(), Error> {
        let file = self.files.len() - 1;
        let mut reader = open(path, compression)?;
        let mut buffer = Vec::new();
        for line in 1.. {
            buffer.clear();
            let n = reader.read_until(b'\n', &mut buffer).map_err(|error| explain(path, compression, error))?;
            if n == 0 {
                break;
            }
            let failed = |problem: String| Error::line(path, line, &problem);
            let text = str::from_utf8(&buffer).map_err(|error| failed(format!("not UTF-8 ({error})")))?;
            let text = if line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text }.trim();
            if text.is_empty() {
                continue;
            }
            let body = match jsonl::parse(text).map_err(failed)? {
                Record::Text(text) if text.is_empty() => continue,
                Record::Text(text) => Body::Text(text.into_bytes()),
                Record::Conversation(conversation) => Body::Conversation(conversation),
            };
            self.items.push(Item { file, line: Some(line), body });
        }
        Ok(())
    }

    /// Returns true if there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns the origin of an item, for messages.
    #[must_use]
    pub fn origin(&self, item: &Item) -> String {
        let file = self.files.get(item.file).map_or("the prompt", String::as_str);
        item.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"))
    }

    /// Returns the size of all items in bytes.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.body.n_bytes() as u64).sum()
    }
}

impl Body {
    /// Returns its size in bytes.
    #[must_use]
    pub(crate) fn n_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Conversation(conversation) => conversation.json().len(),
        }
    }
}

fn is_jsonl(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("jsonl"))
}

/// Content of a file.
enum Contents {
    Text(Vec<u8>),
    /// Not text, and the reason. Unless the file is read unchanged, only its first bytes are present: it may be large.
    Other(NotText, Vec<u8>),
}

fn read_all(path: &Path, compression: Compression, raw: bool) -> Result<Contents, Error> {
    let failed = |error| explain(path, compression, error);
    let mut reader = open(path, compression)?;
    let mut bytes = Vec::new();
    reader.by_ref().take(PROBE as u64).read_to_end(&mut bytes).map_err(failed)?;
    if !raw && let Some(reason) = encoding::not_text(&bytes) {
        return Ok(Contents::Other(reason, bytes));
    }
    reader.read_to_end(&mut bytes).map_err(failed)?;
    Ok(match encoding::not_text(&bytes) {
        None => Contents::Text(bytes),
        Some(reason) => Contents::Other(reason, bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                let path = folder.0.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            folder
        }

        fn read(&self, names: &[&str], layout: Layout) -> Result<Corpus, Error> {
            let input = |name: &&str| Input {
                path: self.0.path().join(name.trim_start_matches('!')),
                raw: name.starts_with('!'),
            };
            Corpus::read(&names.iter().map(input).collect::<Vec<_>>(), layout)
        }

        fn texts(&self, names: &[&str], layout: Layout) -> Vec<String> {
            let text = |item: &Item| match &item.body {
                Body::Text(text) => String::from_utf8(text.clone()).unwrap(),
                Body::Conversation(_) => "<conversation>".to_owned(),
            };
            self.read(names, layout).unwrap().items.iter().map(text).collect()
        }
    }

    #[test]
    fn joined_texts_equal_cat_without_the_last_line_end() {
        let folder = Folder::new(&[("a", "a\n"), ("b", "b"), ("empty", ""), ("line", "\n"), ("c", "c\n\n")]);
        for (names, text) in [
            (&["a"][..], "a"),
            (&["b"], "b"),
            (&["c"], "c\n"),
            (&["a", "b"], "a\nb"),
            (&["b", "a"], "b\na"),
            (&["a", "empty", "b"], "a\nb"),
            (&["a", "line", "b"], "a\n\nb"),
            (&["empty", "b"], "b"),
            (&["c", "a"], "c\n\na"),
            // Unchanged up to the last byte, with no line end added.
            (&["!a"], "a\n"),
            (&["!b", "a"], "ba"),
            (&["b", "!b"], "b\nb"),
        ] {
            assert_eq!(folder.texts(names, Layout::Joined), [text], "{names:?}");
        }
        assert_eq!(folder.texts(&["empty", "line"], Layout::Joined), [""; 0]);
        assert_eq!(folder.texts(&["a", "empty", "b", "c"], Layout::Apart), ["a", "b", "c\n"]);
    }

    #[test]
    fn json_lines_are_items_that_separate_texts() {
        let lines = "\u{feff}{\"text\":\"one\"}\r\n\n  {\"text\":\"two\"}\n{\"text\":\"\"}\n\
                     {\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
        let folder = Folder::new(&[("a", "a\n"), ("d.jsonl", lines), ("bad.jsonl", "{\"text\":\"x\"}\n{\"txt\":1}\n")]);
        let texts = folder.texts(&["a", "a", "d.jsonl", "a"], Layout::Joined);
        assert_eq!(texts, ["a\na", "one", "two", "<conversation>", "a"]);
        let corpus = folder.read(&["a", "d.jsonl"], Layout::Joined).unwrap();
        assert_eq!(corpus.items.iter().map(|item| item.line).collect::<Vec<_>>(), [None, Some(1), Some(3), Some(5)]);
        assert!(corpus.origin(&corpus.items[2]).ends_with("d.jsonl:3"));
        let error = folder.read(&["bad.jsonl"], Layout::Joined).unwrap_err().to_string();
        assert!(error.contains("bad.jsonl:2: found 'txt'; expected"), "{error}");
        assert_eq!(folder.texts(&["!bad.jsonl"], Layout::Joined).len(), 1);
    }

    #[test]
    fn folders_are_read_in_name_order_without_hidden_files() {
        let files = [
            ("f/b.txt", "b"),
            ("f/a/z.txt", "z"),
            ("f/a.txt", "a"),
            ("f/.hidden", "x"),
            ("f/.git/c", "x"),
            ("e/.x", ""),
        ];
        let folder = Folder::new(&files);
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.0.path().join("f"), folder.0.path().join("f/a/loop")).unwrap();
        assert_eq!(folder.texts(&["f"], Layout::Apart), ["z", "a", "b"]);
        let names = folder.read(&["f"], Layout::Apart).unwrap().files;
        assert!(names[0].ends_with("/f/a/z.txt") && names.len() == 3, "{names:?}");
        let empty = folder.read(&["e"], Layout::Apart).unwrap_err().to_string();
        assert!(empty.contains("holds no files"), "{empty}");
        assert!(folder.read(&["none"], Layout::Apart).unwrap_err().to_string().contains("none"));
    }

    #[cfg(feature = "compression")]
    #[test]
    fn compressed_files_are_decompressed() {
        use std::io::Write;
        let folder = Folder::new(&[("no.gz", "plain"), ("no.zst", "plain")]);
        let gzip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.0.path().join(name), bytes).unwrap();
        write("a.txt.gz", &[gzip("a\n"), gzip("b\n")].concat());
        write("d.jsonl.gz", &gzip("{\"text\":\"one\"}\n{\"text\":\"two\"}\n"));
        write("bomb.gz", &gzip(&"0".repeat(80 << 20)));
        write("cut.gz", &gzip("some text")[..12]);
        let zst = ruzstd::encoding::compress_to_vec(&b"z\n"[..], ruzstd::encoding::CompressionLevel::Fastest);
        write("z.zst", &zst);
        assert_eq!(folder.texts(&["a.txt.gz", "d.jsonl.gz", "z.zst"], Layout::Joined), ["a\nb", "one", "two", "z"]);
        for name in ["no.gz", "no.zst", "cut.gz"] {
            let error = folder.read(&[name], Layout::Joined).unwrap_err().to_string();
            assert!(error.starts_with("cannot decompress '") && error.contains(name), "{error}");
        }
        let Err(error) = folder.read(&["bomb.gz"], Layout::Joined) else { panic!("a bomb was taken") };
        assert!(error.to_string().contains("decompresses to more than 64 MiB"), "{error}");
        // As it is, on request.
        assert_eq!(folder.read(&["!z.zst"], Layout::Joined).unwrap().items[0].body.n_bytes(), zst.len());
    }

    #[test]
    fn binary_files_are_refused_and_in_folders_skipped() {
        let folder = Folder::new(&[("f/a", "a"), ("f/m.gguf", "GGUF\u{3}\0\0\0"), ("f/n", "b\0"), ("g/n", "\0")]);
        std::fs::write(folder.0.path().join("f/u"), b"\xff\xfeU\0").unwrap();
        let corpus = folder.read(&["f"], Layout::Apart).unwrap();
        assert_eq!((corpus.files.len(), corpus.items.len()), (1, 1));
        let notes: Vec<_> = corpus.notes.iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), 3, "{notes:?}");
        for (note, says) in notes.iter().zip(["m.gguf: skipped", "n: skipped", "u: skipped"]) {
            assert!(note.contains(says), "{note}");
        }
        assert!(folder.read(&["g"], Layout::Apart).unwrap_err().to_string().contains("holds no files that are text"));
        for (name, says) in [("f/m.gguf", "a GGUF file"), ("f/n", "a NUL byte at offset 1"), ("f/u", "hint: iconv")] {
            let error = folder.read(&[name], Layout::Joined).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("is no text") && error.contains(says), "{error}");
        }
        // As it is, to the last byte.
        let raw = folder.read(&["!f/n"], Layout::Joined).unwrap();
        assert_eq!(raw.items[0].body, Body::Text(b"b\0".to_vec()));
        assert!(raw.notes[0].to_string().contains("taken as it is"));
    }

    /// The byte is behind the first that are looked at.
    #[test]
    fn a_nul_byte_is_found_wherever_it_is() {
        let folder = Folder::new(&[("late", &("x".repeat(PROBE + 5) + "\0"))]);
        let error = folder.read(&["late"], Layout::Joined).unwrap_err();
        assert!(matches!(error, Error::NotText { reason: NotText::Nul { offset }, .. } if offset == PROBE as u64 + 5));
    }

    #[test]
    fn invalid_utf8_is_reported_by_file_and_offset() {
        let folder = Folder::new(&[("a", "whole\n")]);
        std::fs::write(folder.0.path().join("latin1"), b"caf\xe9 cr\xe8me").unwrap();
        let corpus = folder.read(&["a", "latin1"], Layout::Joined).unwrap();
        let [note] = &corpus.notes[..] else { panic!("{:?}", corpus.notes) };
        assert!(note.to_string().ends_with("latin1: 2 byte sequences not UTF-8, the first at offset 3"), "{note}");
    }
}
