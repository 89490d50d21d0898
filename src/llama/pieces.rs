//! Tokenizing a long text on several threads, in pieces whose tokens are those of the whole.
//!
//! Nothing about tokens allows a text to be cut anywhere: merges reach as far as the vocabulary has tokens for. What
//! follows are the places where they provably do not, by `llama-vocab.cpp` and `unicode.cpp` of the llama.cpp this is
//! built with. In all of them the text is UTF-8 without NUL.
//!
//! **Special tokens** are looked for first, each from left to right, and what is between them is tokenized for itself.
//! A cut that no occurrence of one touches leaves all others as they are. Some take the white space beside them with
//! them; there is none on one side of a cut at least, so that this ends there, cut or not.
//!
//! **SPM** merges neighbours whose texts together are a token, best score first. `e| w`, with `e` and `w` no white
//! space, is a cut if no token's text has `e▁` in it: no merge can ever cross it, and the merges to its left and right do
//! not depend on each other. Where the vocabulary puts a space before a text, the right piece gets its own back.
//!
//! **BPE** cuts the text into words by regular expressions, then merges within words. `e\n|w`, with `e` graphic and `w`
//! a letter, both ASCII, is the end of a word with all the expressions of the pre-tokenizers in `cut_at_newlines.txt`: each either
//! takes a newline for itself, or has it at the end of white space or behind punctuation, and none reaches from a newline
//! to a letter. Nor does what stands before the cut depend on what follows: `\s+(?!\S)` would, but for a single white
//! space comes to the same. `superbpe` has words that reach over white space and is not in the list; so are pre-tokenizers
//! llama.cpp gets in future, until someone has read them.
//!
//! Other vocabularies are tokenized in one call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Error, Token, Vocab};
use crate::calibration::Tokenizer;

/// Bytes of a piece, at least. llama.cpp looks for each special token in the whole of what it gets, and walks a list from
/// its beginning for each one found: smaller texts stay in the cache and have short lists.
const PIECE: usize = 1 << 16;
/// What SPM vocabularies have in place of a space.
const SPACE: &[u8] = "▁".as_bytes();

/// `tokenizer.ggml.pre` of all pre-tokenizers that end a word at the newline of `e\nw`.
const CUT_AT_NEWLINES: &str = include_str!("cut_at_newlines.txt");

/// A text in pieces.
#[derive(Debug)]
pub struct Pieces<'m, 't> {
    vocab: Vocab<'m>,
    pieces: Vec<&'t [u8]>,
}

impl<'m> Vocab<'m> {
    /// Cuts a text where that does not change its tokens; into one piece where there is no telling.
    #[must_use]
    pub fn pieces<'t>(&self, text: &'t [u8]) -> Pieces<'m, 't> {
        // All of the vocabulary is looked at for the cuts, which is not to be done for each of many small texts.
        let cuts = if text.len() < 2 * PIECE { None } else { Cuts::of(self) };
        let cuts = cuts.filter(|_| str::from_utf8(text).is_ok_and(|text| !text.contains('\0')));
        let mut pieces = Vec::with_capacity(text.len() / PIECE + 1);
        let mut rest = text;
        while let Some((piece, after)) = cuts.as_ref().and_then(|cuts| cuts.first(rest)) {
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        Pieces { vocab: *self, pieces }
    }
}

impl Tokenizer for Vocab<'_> {
    fn tokenize_text(
        &self,
        text: &[u8],
        parse_special: bool,
        threads: usize,
        progress: &(impl Fn(usize) + Sync),
    ) -> Result<Vec<Token>, String> {
        self.pieces(text).tokenize(parse_special, threads, progress).map_err(|error| error.to_string())
    }

    fn tokenize_rendered(&self, text: &[u8]) -> Result<Vec<Token>, String> {
        self.tokenize_part(text, false, true).map_err(|error| error.to_string())
    }

    fn leading_bos(&self) -> Option<Token> {
        Vocab::leading_bos(self)
    }

    fn trailing_eos(&self) -> Option<Token> {
        Vocab::trailing_eos(self)
    }
}

impl Pieces<'_, '_> {
    /// How many there are, one at least.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The tokens that [`Vocab::tokenize`] has for the whole text, computed on up to `threads` threads. `progress` hears
    /// from each of them how many bytes are through.
    ///
    /// # Errors
    /// As [`Vocab::tokenize`].
    pub fn tokenize(
        &self,
        parse_special: bool,
        threads: usize,
        progress: &(impl Fn(usize) + Sync),
    ) -> Result<Vec<Token>, Error> {
        match self.pieces.as_slice() {
            [whole] => self.vocab.tokenize(whole, parse_special),
            _ => self.tokenize_all(parse_special, threads, progress),
        }
    }

    fn tokenize_all(
        &self,
        parse_special: bool,
        threads: usize,
        progress: &(impl Fn(usize) + Sync),
    ) -> Result<Vec<Token>, Error> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let take_turns = || {
            let mut tokens = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = self.pieces.get(i) else { return Ok(tokens) };
                tokens.push((i, self.tokenize_piece(i, piece, parse_special)?));
                progress(done.fetch_add(piece.len(), Ordering::Relaxed) + piece.len());
            }
        };
        let mut all: Vec<(usize, Vec<Token>)> = thread::scope(|scope| {
            let threads = threads.min(self.pieces.len());
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(take_turns)).collect();
            let mut all = take_turns()?;
            for other in others {
                all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok::<_, Error>(all)
        })?;
        all.sort_unstable_by_key(|(i, _)| *i);
        let mut tokens: Vec<Token> = Vec::with_capacity(all.iter().map(|(_, tokens)| tokens.len()).sum::<usize>() + 1);
        for (_, mut of_piece) in all {
            tokens.append(&mut of_piece);
        }
        tokens.extend(self.vocab.trailing_eos());
        Ok(tokens)
    }

    fn tokenize_piece(&self, i: usize, piece: &[u8], parse_special: bool) -> Result<Vec<Token>, Error> {
        // The first has the token before the text, and llama.cpp's warning of two of them.
        let mut tokens = self.vocab.tokenize_part(piece, i == 0, parse_special)?;
        if i == 0 && self.vocab.trailing_eos().is_some() {
            tokens.pop();
        }
        Ok(tokens)
    }
}

/// Where texts can be cut, for one vocabulary.
struct Cuts<'m> {
    place: Place,
    special: Vec<&'m [u8]>,
}

/// What a cut is at.
enum Place {
    /// `e| w`; which `e` some token has before a space; whether the piece to the right lacks its space.
    Space { joined: [bool; 128], dropped: bool },
    /// `e\n|w`.
    Newline,
}

impl<'m> Cuts<'m> {
    fn of(vocab: &Vocab<'m>) -> Option<Self> {
        let tokens = || (0..vocab.n_tokens() as Token).filter_map(|token| Some((token, vocab.text(token)?.to_bytes())));
        let special: Vec<_> = tokens().filter(|&(token, _)| vocab.is_special(token)).map(|(_, text)| text).collect();
        let place = if vocab.kind().is_spm() {
            let mut joined = [false; 128];
            for (_, text) in tokens() {
                for at in 1..text.len() {
                    if let Some(joined) = joined.get_mut(usize::from(text[at - 1]))
                        && text[at..].starts_with(SPACE)
                    {
                        *joined = true;
                    }
                }
            }
            Place::Space { joined, dropped: adds_space(vocab, &special)? }
        } else if vocab.kind().is_bpe() && ends_words_at_newlines(vocab) {
            Place::Newline
        } else {
            return None;
        };
        Some(Self { place, special })
    }

    /// The first piece of a text and the rest, if there is a cut before it gets small.
    fn first<'t>(&self, text: &'t [u8]) -> Option<(&'t [u8], &'t [u8])> {
        (PIECE..text.len().checked_sub(PIECE)?).find_map(|at| self.cut(text, at))
    }

    /// The two pieces around the text's byte `at`, if it is the white space of a cut.
    fn cut<'t>(&self, text: &'t [u8], at: usize) -> Option<(&'t [u8], &'t [u8])> {
        let &[e, between, w] = text.get(at - 1..at + 2)? else { return None };
        // No special token may end at `first_end` or later and begin at `last_begin` or earlier.
        let (end, begin, first_end, last_begin) = match &self.place {
            Place::Space { joined, dropped } => {
                let free = e.is_ascii_graphic() && between == b' ' && w.is_ascii_alphanumeric();
                if !free || joined.get(usize::from(e)) != Some(&false) {
                    return None;
                }
                (at, at + usize::from(*dropped), at, at + 1)
            }
            Place::Newline => {
                if !(e.is_ascii_graphic() && between == b'\n' && w.is_ascii_alphabetic()) {
                    return None;
                }
                (at + 1, at + 1, at + 2, at + 1) // one that is or ends with the newline does not matter
            }
        };
        let touches = |token: &&[u8]| {
            let begins = first_end.saturating_sub(token.len())..=last_begin;
            !token.is_empty() && begins.into_iter().any(|begin| text[begin..].starts_with(token))
        };
        if self.special.iter().any(touches) { None } else { Some((text.get(..end)?, text.get(begin..)?)) }
    }
}

/// Whether an SPM vocabulary puts a space before a text. llama.cpp does not say, so it is tried; `None` where that does
/// not tell.
fn adds_space(vocab: &Vocab<'_>, special: &[&[u8]]) -> Option<bool> {
    let letter = (b'a'..=b'z').map(|letter| [letter]).find(|letter| !special.contains(&letter.as_slice()))?;
    let tokens = vocab.tokenize_part(&letter, false, false).ok()?;
    let first = vocab.text(*tokens.first()?)?.to_bytes();
    if first.starts_with(SPACE) || first == b"<0xE2>" { Some(true) } else { (first == letter).then_some(false) }
}

fn ends_words_at_newlines(vocab: &Vocab<'_>) -> bool {
    let model = vocab.model();
    let known = |pre: &str| CUT_AT_NEWLINES.lines().any(|known| known == pre);
    // What the file says is not what counts where it was overridden. Of the other tokenizers that are BPE, one looks
    // for marks throughout the text, and one drops white space.
    if model.tokenizer_overridden() {
        return false;
    }
    match model.meta(c"tokenizer.ggml.model").as_deref() {
        Some("gpt2") => model.meta(c"tokenizer.ggml.pre").is_some_and(|pre| known(&pre)),
        Some("gemma4") => true, // whatever its pre-tokenizer is said to be
        _ => false,
    }
}
