//! File formats, merging and statistics.

/// Asserts the variant of an error, and shows the error where it is another.
macro_rules! assert_error {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $error;
        assert!(matches!(error, $pattern $(if $guard)?), "{error:?}");
        assert!(!error.to_string().is_empty());
    };
}

mod damage;
mod fuzz_corpus;
mod ggml_cases;
mod gguf_rules;
mod golden;
mod imatrix_rules;
mod inputs;
mod round_trip;
