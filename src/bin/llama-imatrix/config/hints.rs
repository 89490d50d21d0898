//! How to go on after an error of the library: in terms of flags, which the library does not know.

use llama_imatrix::calibration::{self, NotText};
use llama_imatrix::gguf::{self, Kind};
use llama_imatrix::imatrix;
#[cfg(feature = "llama")]
use llama_imatrix::llama;

/// Returns the message of an error with all its causes, and a hint if there is one.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    let message = crate::ui::chain::describe(error);
    match error.chain().find_map(hint).filter(|_| !message.contains("hint: ")) {
        Some(hint) => format!("{message}\nhint: {hint}"),
        None => message,
    }
}

fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    #[cfg(feature = "llama")]
    if let Some(error) = cause.downcast_ref::<llama::Error>() {
        return of_model(error);
    }
    if let Some(error) = cause.downcast_ref::<calibration::Error>() {
        return of_text(error);
    }
    cause.downcast_ref::<imatrix::Error>().and_then(of_matrix)
}

#[cfg(feature = "llama")]
fn of_model(error: &llama::Error) -> Option<String> {
    match error {
        llama::Error::NotGguf { .. } => Some(NOT_GGUF.to_owned()),
        llama::Error::NotModel { kind, .. } => of_kind(kind).map(str::to_owned),
        llama::Error::ModelLoad { reason, .. } if reason.contains("corrupted or incomplete") => {
            Some("download or convert the model again, and compare its size".to_owned())
        }
        llama::Error::ModelLoad { reason, .. } if reason.contains("illegal split file idx") => {
            Some("--model takes the first of the model's files, which ends in -00001-of-N.gguf".to_owned())
        }
        llama::Error::ModelLoad { reason, .. } if reason.contains("unknown model architecture") => Some(
            "this llama.cpp does not have the architecture; `llama-imatrix --version` shows which one it is".to_owned(),
        ),
        _ => None,
    }
}

/// What a file that is no GGUF file needs to become a model.
pub(super) const NOT_GGUF: &str = "--model takes a GGUF file; llama.cpp's convert_hf_to_gguf.py converts models to GGUF, and \
                                   --file takes a calibration text";

/// What a file that is no model is for.
pub(super) fn of_kind(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Imatrix => Some("expected the model that the matrix is for; did you mean --in-file?"),
        Kind::State => Some("--resume continues its run; --model takes the model of the run"),
        Kind::Adapter => Some("--lora takes an adapter; --model takes the model that it adapts"),
        Kind::Projector => Some("--model takes the language model, which is another file"),
        _ => None,
    }
}

fn of_text(error: &calibration::Error) -> Option<String> {
    match error {
        calibration::Error::NotText { reason: NotText::Gguf, .. } => {
            Some("--model takes a model, --in-file an importance matrix, --file a text".to_owned())
        }
        calibration::Error::TooShort { found: 0, .. } | calibration::Error::NoTokens => {
            Some("name a file with text, by --file".to_owned())
        }
        calibration::Error::TooShort { found, .. } => {
            let smaller = match found / 2 {
                0..32 => String::new(),
                size => format!(", -c {size} or less makes chunks that fit"),
            };
            Some(format!("add more text (--file may be repeated); --keep-tail also takes a short text{smaller}"))
        }
        calibration::Error::TooShortAfterSkip { .. } => {
            Some("a smaller --chunk, or --keep-tail, leaves more".to_owned())
        }
        _ => None,
    }
}

fn of_matrix(error: &imatrix::Error) -> Option<String> {
    match error {
        imatrix::Error::NotImatrix(Kind::State) => Some(
            "the command that wrote it continues the run with --resume and then writes the matrix; `llama-imatrix merge` \
             makes a matrix of the states of all shards"
                .to_owned(),
        ),
        imatrix::Error::NotImatrix(Kind::Model { .. }) => {
            Some("llama-imatrix -m MODEL -f TEXT collects a matrix from a model".to_owned())
        }
        imatrix::Error::DatEntries { .. } => {
            Some("importance matrices are written by llama-imatrix, in GGUF or as older .dat files".to_owned())
        }
        imatrix::Error::Gguf(gguf::Error::Truncated { .. }) => Some("the file is incomplete: copy it again".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn hints_follow_all_causes_and_are_given_once() {
        let error = Err::<(), _>(imatrix::Error::NotImatrix(Kind::State)).context("failed to load 'x'").unwrap_err();
        let text = explained(&error);
        assert!(
            text.starts_with("failed to load 'x': not an importance matrix, but the state of a run\nhint: "),
            "{text}"
        );
        let error = error.context("cannot go on\nhint: another");
        assert_eq!(explained(&error).matches("hint: ").count(), 1);
    }

    #[test]
    fn a_short_text_names_the_chunk_size_that_fits() {
        let error = calibration::Error::TooShort { needed: 1024, found: 300, chunk_size: 512 };
        assert!(of_text(&error).unwrap().ends_with("-c 150 or less makes chunks that fit"));
    }
}
