//! Types of weights, as flags name them.

use llama_imatrix::gguf::DType;

/// Reads ggml's name of a type; case does not matter.
pub(crate) fn parse(text: &str) -> Result<DType, String> {
    let known = DType::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(text.trim()));
    known.ok_or_else(|| "unknown type, expected ggml's name for one, such as q4_K or iq3_xxs".to_owned())
}
