//! Vocabularies and texts on which llama.cpp would end the process.

use llama_imatrix::llama::Error;

use super::with_built;

#[test]
fn a_model_without_a_tokenizer_is_an_error_and_has_no_token_texts() {
    with_built("llama-no-vocab", |model| {
        let vocab = model.vocab();
        assert!(matches!(vocab.check(), Err(Error::Vocabulary { .. })));
        assert!(matches!(vocab.tokenize(b"text", false), Err(Error::Vocabulary { .. })));
        assert!(vocab.n_tokens() > 0);
        assert!(vocab.text(3).is_none() && vocab.piece(3).is_empty() && !vocab.is_end(3));
    });
}

#[test]
fn a_tokenizers_exception_is_an_error_and_leaves_the_vocabulary_as_it_was() {
    with_built("llama-no-bytes", |model| {
        let vocab = model.vocab();
        assert!(vocab.check().is_ok());
        let known = vocab.tokenize(b"the house", false).unwrap();
        let error = vocab.tokenize("the 漢 house".as_bytes(), false).unwrap_err();
        assert!(matches!(&error, Error::Tokenizer { reason } if !reason.is_empty()), "{error}");
        assert_eq!(vocab.tokenize(b"the house", false).unwrap(), known);
    });
    with_built("llama-no-bos", |model| {
        assert!(matches!(model.vocab().check(), Err(Error::Vocabulary { .. })));
    });
}
