use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomData;

use llama_cpp_sys_2 as sys;

use super::vocab_check::{self, Facts};
use super::{Error, Model, Token};
use crate::calibration::Tokenizer;

#[allow(dead_code, non_camel_case_types, unreachable_pub, reason = "generated")]
mod shim {
    use llama_cpp_sys_2::llama_vocab;
    include!(concat!(env!("OUT_DIR"), "/tokenizer.rs"));
}

/// Bytes kept of the message of a tokenizer's exception.
const REASON: usize = 256;

/// Type of a vocabulary's tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VocabKind(sys::llama_vocab_type);

impl fmt::Display for VocabKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            sys::LLAMA_VOCAB_TYPE_NONE => f.write_str("none"),
            sys::LLAMA_VOCAB_TYPE_SPM => f.write_str("SPM"),
            sys::LLAMA_VOCAB_TYPE_BPE => f.write_str("BPE"),
            sys::LLAMA_VOCAB_TYPE_WPM => f.write_str("WPM"),
            sys::LLAMA_VOCAB_TYPE_UGM => f.write_str("UGM"),
            sys::LLAMA_VOCAB_TYPE_RWKV => f.write_str("RWKV"),
            other => write!(f, "type {other}"),
        }
    }
}

/// A model's vocabulary and tokenizer.
#[derive(Debug, Clone, Copy)]
pub struct Vocab<'m> {
    ptr: *const sys::llama_vocab,
    model: PhantomData<&'m Model>,
}

// SAFETY: a vocabulary is not written after loading, and a call that tokenizes keeps its state to itself.
unsafe impl Send for Vocab<'_> {}
// SAFETY: as above.
unsafe impl Sync for Vocab<'_> {}

impl<'m> Vocab<'m> {
    pub(super) fn new(ptr: *const sys::llama_vocab, _: &'m Model) -> Self {
        Self { ptr, model: PhantomData }
    }

    /// Number of tokens, which is also the width of a row of logits.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model, which this value borrows.
        usize::try_from(unsafe { sys::llama_vocab_n_tokens(self.ptr) }).unwrap_or(0)
    }

    /// Returns the token that the tokenizer puts before a text, if it does.
    #[must_use]
    pub fn leading_bos(&self) -> Option<Token> {
        // SAFETY: as in n_tokens, for both calls.
        let (add, bos) = unsafe { (sys::llama_vocab_get_add_bos(self.ptr), sys::llama_vocab_bos(self.ptr)) };
        (add && bos >= 0).then_some(bos)
    }

    /// Returns the token that the tokenizer puts after a text, if it does.
    #[must_use]
    pub(crate) fn trailing_eos(&self) -> Option<Token> {
        // SAFETY: as in n_tokens, for both calls.
        let (add, eos) = unsafe { (sys::llama_vocab_get_add_eos(self.ptr), sys::llama_vocab_eos(self.ptr)) };
        (add && eos >= 0).then_some(eos)
    }

    /// Returns the BOS token, if there is one, whether or not the tokenizer adds it.
    #[must_use]
    pub fn bos(&self) -> Option<Token> {
        // SAFETY: as in n_tokens.
        Some(unsafe { sys::llama_vocab_bos(self.ptr) }).filter(|&token| token >= 0)
    }

    /// Returns the EOS token, if there is one, whether or not the tokenizer adds it.
    #[must_use]
    pub fn eos(&self) -> Option<Token> {
        // SAFETY: as in n_tokens.
        Some(unsafe { sys::llama_vocab_eos(self.ptr) }).filter(|&token| token >= 0)
    }

    /// Returns the type of tokenizer.
    #[must_use]
    pub(crate) fn kind(&self) -> VocabKind {
        // SAFETY: as in n_tokens.
        VocabKind(unsafe { sys::llama_vocab_type(self.ptr) })
    }

    /// Returns a token's text in the vocabulary's table.
    #[must_use]
    pub fn text(&self, token: Token) -> Option<&'m CStr> {
        let known = usize::try_from(token).is_ok_and(|token| token < self.n_tokens());
        if !known || self.kind().0 == sys::LLAMA_VOCAB_TYPE_NONE {
            return None; // llama.cpp would throw, or fail an assertion
        }
        // SAFETY: the token exists (checked), so llama.cpp returns a string of the vocabulary, which lives as long as
        // the model.
        let text = unsafe { sys::llama_vocab_get_text(self.ptr, token) };
        // SAFETY: as above; the string is NUL-terminated.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
    }

    /// Returns the bytes that a token stands for in a text. Several tokens may share the bytes of one character.
    /// Control tokens and numbers outside the vocabulary have none.
    #[must_use]
    pub fn piece(&self, token: Token) -> Vec<u8> {
        if self.text(token).is_none() {
            return Vec::new(); // llama.cpp would throw
        }
        let mut bytes = vec![0_u8; 32];
        loop {
            let len = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            // SAFETY: the token exists, and llama.cpp writes at most `len` bytes.
            let n = unsafe { sys::llama_token_to_piece(self.ptr, token, bytes.as_mut_ptr().cast(), len, 0, false) };
            match usize::try_from(n) {
                Ok(n) => {
                    bytes.truncate(n);
                    return bytes;
                }
                // Negative: the number of bytes that are needed.
                Err(_) if n.unsigned_abs() as usize > bytes.len() => bytes.resize(n.unsigned_abs() as usize, 0),
                Err(_) => return Vec::new(),
            }
        }
    }

    /// Returns true for an end-of-generation token: the end of a text or of a turn.
    #[must_use]
    pub fn is_end(&self, token: Token) -> bool {
        // SAFETY: as in n_tokens; the call looks up the token in a set.
        unsafe { sys::llama_vocab_is_eog(self.ptr, token) }
    }

    /// Checks that texts can be tokenized.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] if llama.cpp would end the process.
    pub fn check(&self) -> Result<(), Error> {
        self.check_for(true)
    }

    fn check_for(&self, around: bool) -> Result<(), Error> {
        // SAFETY: as in n_tokens, for all three calls.
        let (adds_bos, adds_eos, sep) = unsafe {
            (
                sys::llama_vocab_get_add_bos(self.ptr),
                sys::llama_vocab_get_add_eos(self.ptr),
                sys::llama_vocab_sep(self.ptr),
            )
        };
        let facts = Facts {
            kind: self.kind().0,
            n_tokens: self.n_tokens(),
            adds_bos,
            adds_eos,
            has_bos: self.bos().is_some(),
            has_eos: self.eos().is_some(),
            has_sep: sep >= 0,
        };
        vocab_check::check(&facts, around).map_err(|reason| Error::Vocabulary { reason })
    }

    /// Tokenizes `text` and adds the tokens that the vocabulary puts around a text. With `parse_special`, control
    /// tokens in the text, such as `<|im_start|>`, become these tokens.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] beyond 2 GiB; [`Error::Vocabulary`]; [`Error::Tokenizer`].
    pub fn tokenize(&self, text: &[u8], parse_special: bool) -> Result<Vec<Token>, Error> {
        self.tokenize_part(text, true, parse_special)
    }

    /// As [`tokenize`](Self::tokenize), without the tokens around a text unless `around`.
    pub(crate) fn tokenize_part(self, text: &[u8], around: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        self.check_for(around)?;
        let too_long = || Error::TextTooLong { found: text.len(), limit: i32::MAX as usize - 2 };
        let len = i32::try_from(text.len()).ok().filter(|&len| len <= i32::MAX - 2).ok_or_else(too_long)?;
        let mut tokens: Vec<Token> = vec![0; text.len() + 2];
        let mut n = self.tokenize_into(text, len, &mut tokens, around, parse_special)?;
        if n < 0 && n != i32::MIN {
            // Rare: normalization made more tokens than bytes. The result is the negative number of tokens.
            tokens.resize(n.unsigned_abs() as usize, 0);
            n = self.tokenize_into(text, len, &mut tokens, around, parse_special)?;
        }
        tokens.truncate(usize::try_from(n).map_err(|_| too_long())?);
        let known = 0..self.n_tokens();
        match tokens.iter().find(|&&token| !usize::try_from(token).is_ok_and(|token| known.contains(&token))) {
            // llama.cpp returns it for unknown text if the vocabulary has no unknown token.
            Some(token) => Err(Error::Tokenizer { reason: format!("there is no token {token}") }),
            None => Ok(tokens),
        }
    }

    fn tokenize_into(
        &self,
        text: &[u8],
        len: i32,
        tokens: &mut [Token],
        around: bool,
        parse_special: bool,
    ) -> Result<i32, Error> {
        let capacity = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        let (mut n, mut reason) = (0, [0_u8; REASON]);
        let (text, tokens) = (text.as_ptr().cast(), tokens.as_mut_ptr());
        // SAFETY: all buffers are valid for the lengths passed with them, and the shim writes at most `capacity` tokens
        // and `REASON` bytes. It catches exceptions, and `check_for` has refused vocabularies that would fail an
        // assertion.
        let status = unsafe {
            shim::imatrix_tokenizer_tokenize(
                self.ptr,
                text,
                len,
                tokens,
                capacity,
                around,
                parse_special,
                &raw mut n,
                reason.as_mut_ptr().cast(),
                reason.len(),
            )
        };
        if status == shim::IMATRIX_TOKENIZER_OK {
            return Ok(n);
        }
        let reason = CStr::from_bytes_until_nul(&reason).unwrap_or_default().to_string_lossy().into_owned();
        Err(Error::Tokenizer { reason })
    }
}

impl Tokenizer for Vocab<'_> {
    fn tokenize(&self, text: &[u8], around: bool, parse_special: bool) -> Result<Vec<Token>, String> {
        self.tokenize_part(text, around, parse_special).map_err(|error| error.to_string())
    }

    fn leading_bos(&self) -> Option<Token> {
        Vocab::leading_bos(self)
    }

    fn trailing_eos(&self) -> Option<Token> {
        Vocab::trailing_eos(self)
    }
}
