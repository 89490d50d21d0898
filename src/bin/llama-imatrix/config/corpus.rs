//! The calibration text, read.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::Context as _;
use llama_imatrix::calibration::{Body, Corpus, Layout};

use crate::args::{Flags, Text};
use crate::ui::log;

/// The text and the names of its files as they were given: they go into the matrix. As with llama.cpp's tool, a file
/// goes there by name also where a prompt takes the place of its text.
pub(super) fn read_corpus(flags: &Flags) -> anyhow::Result<(Corpus, Vec<String>)> {
    let name = |path: &PathBuf| {
        std::fs::File::open(path).with_context(|| format!("failed to open file '{}'", path.display()))?;
        let name = path.to_str().with_context(|| format!("the name of '{}' is not UTF-8", path.display()))?;
        anyhow::Ok(name.to_owned())
    };
    let (mut corpus, datasets) = match &flags.text {
        None => return Ok((Corpus::default(), flags.dataset.iter().map(name).collect::<Result<_, _>>()?)),
        Some(Text::Prompt(prompt)) => {
            let datasets = flags.dataset.iter().map(name).collect::<Result<_, _>>()?;
            (Corpus::of_text(prompt.as_encoded_bytes().to_vec()), datasets)
        }
        Some(Text::Files(inputs)) => {
            let layout = if flags.documents { Layout::Apart } else { Layout::Joined };
            let corpus = Corpus::read(inputs, layout)?;
            for input in inputs.iter().filter(|input| input.raw) {
                let bytes = input.path.metadata().map_or(0, |metadata| metadata.len());
                log::raw(format_args!("Read {bytes} bytes from binary file {}\n", input.path.display()));
            }
            let datasets = corpus.files.clone();
            (corpus, datasets)
        }
    };
    for note in &corpus.notes {
        log::warn(format_args!("{note}"));
    }
    if flags.escape {
        for item in corpus.items.iter_mut().filter(|item| item.line.is_none()) {
            if let Body::Text(text) = &mut item.body {
                *text = unescape(text).into_owned();
            }
        }
    }
    Ok((corpus, datasets))
}

/// Characters for what stands for them after a backslash; other backslashes stay.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return text.into();
    }
    let hex = |digit: Option<&u8>| char::from(*digit?).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let (byte, taken) = match (first, after.first()) {
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(&c @ (b'\'' | b'"' | b'\\'))) => (c, 2),
            (b'\\', Some(b'x')) => match (hex(after.get(1)), hex(after.get(2))) {
                (Some(high), Some(low)) => ((high * 16 + low) as u8, 4),
                _ => (b'\\', 1),
            },
            _ => (*first, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_llama_cpps() {
        assert_eq!(&*unescape(br#"a\n\r\t\'\"\\b"#), b"a\n\r\t'\"\\b");
        assert_eq!(&*unescape(br"\x41\x4"), br"A\x4");
        assert_eq!(&*unescape(br"\q\"), br"\q\");
        assert_eq!(&*unescape(br"\\n"), br"\n");
        assert_eq!(&*unescape(br"\xg1"), br"\xg1");
    }
}
