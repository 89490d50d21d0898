//! Vocabularies on which llama.cpp's tokenizer would end the process.
//!
//! Its exceptions are caught; a `GGML_ASSERT` or `GGML_ABORT` cannot be. Vocabularies that would reach one are refused
//! before:
//!
//! | llama.cpp | reached by | refused in |
//! |---|---|---|
//! | `tokenize`: "Tokenizer not initialized"; `token_get_text`, `token_get_attr`: no type | `tokenizer.ggml.model` = `no_vocab` or `none` | [`check`] |
//! | `tokenize`, `append_bos`: no BOS; `append_eos`: no EOS | `add_bos_token` or `add_eos_token` without the token | [`check`] |
//! | `tokenize` of WPM: no BOS, no SEP | a BERT vocabulary without them | [`check`] |
//! | `tokenize` of the test vocabulary: a division by zero | no tokens | [`check`] |
//! | loading: `id_to_token.size() == token_to_id.size()` | a token that is listed twice | [`check_file`] |
//! | loading, `token_to_byte` of WPM: fatal | a BERT vocabulary with a byte token | [`check_file`] |

use std::collections::HashSet;
use std::path::Path;

use llama_cpp_sys_2 as sys;

use crate::gguf::{Array, File, Value};

/// Properties of a vocabulary that are checked before a text is tokenized.
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a vocabulary")]
pub(super) struct Facts {
    pub(super) kind: sys::llama_vocab_type,
    pub(super) n_tokens: usize,
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
    pub(super) has_bos: bool,
    pub(super) has_eos: bool,
    pub(super) has_sep: bool,
}

/// Checks that a text can be tokenized, with BOS and EOS if `around`. Returns the reason otherwise.
pub(super) fn check(facts: &Facts, around: bool) -> Result<(), &'static str> {
    if facts.kind == sys::LLAMA_VOCAB_TYPE_NONE {
        return Err("the model has no tokenizer (tokenizer.ggml.model is 'no_vocab' or 'none')");
    }
    if facts.n_tokens == 0 {
        return Err("the model's vocabulary has no tokens");
    }
    if !around || facts.kind == sys::LLAMA_VOCAB_TYPE_RWKV {
        return Ok(());
    }
    if facts.kind == sys::LLAMA_VOCAB_TYPE_WPM {
        return match (facts.has_bos, facts.has_sep) {
            (true, true) => Ok(()),
            _ => Err("the model's vocabulary has no token to begin a text with (BOS), or none to end it with (SEP)"),
        };
    }
    if facts.adds_bos && !facts.has_bos {
        return Err(
            "texts begin with BOS (tokenizer.ggml.add_bos_token), and the model's vocabulary has no such token",
        );
    }
    if facts.adds_eos && !facts.has_eos {
        return Err("texts end with EOS (tokenizer.ggml.add_eos_token), and the model's vocabulary has no such token");
    }
    Ok(())
}

/// Checks that llama.cpp can load the vocabulary of this file. Returns the reason otherwise.
///
/// A file that cannot be read passes: llama.cpp, which loads it next, reports the error.
pub(super) fn check_file(path: &Path) -> Result<(), String> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    let tokens = file.get("tokenizer.ggml.tokens").and_then(Value::as_strings).unwrap_or_default();
    let mut seen = HashSet::with_capacity(tokens.len());
    // llama.cpp invents names for tokens without text.
    let twice = tokens.iter().enumerate().find(|(_, token)| !token.is_empty() && !seen.insert(token.as_str()));
    if let Some((index, token)) = twice {
        return Err(format!("tokenizer.ggml.tokens has {token:?} twice, the second time at {index}"));
    }
    let is_wpm = file.get("tokenizer.ggml.model").and_then(Value::as_str) == Some("bert");
    let has_bytes = match file.get("tokenizer.ggml.token_type") {
        Some(Value::Array(Array::I32(types))) => types.contains(&sys::LLAMA_TOKEN_TYPE_BYTE.cast_signed()),
        _ => false,
    };
    if is_wpm && has_bytes {
        return Err("tokenizer.ggml.token_type has tokens for bytes, which a BERT vocabulary cannot have".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: sys::llama_vocab_type) -> Facts {
        let (adds_bos, adds_eos) = (true, true);
        Facts { kind, n_tokens: 9, adds_bos, adds_eos, has_bos: true, has_eos: true, has_sep: true }
    }

    #[test]
    fn each_assertion_of_the_tokenizer_is_refused_and_nothing_else() {
        let (spm, wpm) = (sys::LLAMA_VOCAB_TYPE_SPM, sys::LLAMA_VOCAB_TYPE_WPM);
        for kind in [spm, wpm, sys::LLAMA_VOCAB_TYPE_BPE, sys::LLAMA_VOCAB_TYPE_UGM, sys::LLAMA_VOCAB_TYPE_RWKV] {
            assert_eq!(check(&facts(kind), true), Ok(()));
        }
        for (wrong, around_only) in [
            (facts(sys::LLAMA_VOCAB_TYPE_NONE), false),
            (Facts { n_tokens: 0, ..facts(spm) }, false),
            (Facts { has_bos: false, ..facts(spm) }, true),
            (Facts { has_eos: false, ..facts(spm) }, true),
            (Facts { has_bos: false, adds_bos: false, ..facts(wpm) }, true),
            (Facts { has_sep: false, ..facts(wpm) }, true),
        ] {
            assert!(check(&wrong, true).is_err());
            assert_eq!(check(&wrong, false).is_ok(), around_only);
        }
        let no_ends = Facts { adds_bos: false, has_bos: false, adds_eos: false, has_eos: false, ..facts(spm) };
        assert_eq!(check(&no_ends, true), Ok(()));
        let rwkv = Facts { has_bos: false, has_eos: false, ..facts(sys::LLAMA_VOCAB_TYPE_RWKV) };
        assert_eq!(check(&rwkv, true), Ok(()));
    }

    #[test]
    fn a_file_that_fails_an_assertion_while_loading_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let checked = |model: &str, tokens: &[&str], types: Vec<i32>| {
            let mut writer = crate::gguf::Writer::new();
            writer.set("tokenizer.ggml.model", model).set("tokenizer.ggml.tokens", tokens);
            writer.set("tokenizer.ggml.token_type", types);
            let mut bytes = Vec::new();
            writer.write_to(&mut bytes).unwrap();
            std::fs::write(&path, bytes).unwrap();
            check_file(&path)
        };
        assert_eq!(checked("llama", &["a", "b", "", ""], vec![1, 6, 1, 1]), Ok(()));
        assert!(
            checked("llama", &["a", "b", "a"], vec![1; 3]).unwrap_err().contains("\"a\" twice, the second time at 2")
        );
        assert!(checked("bert", &["a", "b"], vec![1, 6]).unwrap_err().contains("token_type"));
        assert_eq!(checked("bert", &["a", "b"], vec![1, 1]), Ok(()));
        std::fs::write(&path, b"no GGUF file").unwrap();
        assert_eq!(check_file(&path), Ok(()));
    }
}
