//! What a GGUF file holds, by its `general.type` and its architecture.

use std::fmt;

use super::{File, Value};

/// What a GGUF file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A model.
    Model {
        /// `general.architecture`, empty if the file does not say.
        architecture: String,
    },
    /// An importance matrix.
    Imatrix,
    /// The state of an unfinished run, or of a shard of a run.
    State,
    /// A `LoRA` adapter.
    Adapter,
    /// The projector of a multimodal model, which belongs to another file.
    Projector,
    /// Another type, or an empty name if the file does not say.
    Other(String),
}

impl Kind {
    /// Returns what a file says that it holds.
    #[must_use]
    pub fn of(file: &File<'_>) -> Self {
        let text = |key: &str| file.get(key).and_then(Value::as_str);
        let architecture = text("general.architecture");
        match text("general.type") {
            Some("imatrix") => Self::Imatrix,
            Some("imatrix-state") => Self::State,
            Some("adapter") => Self::Adapter,
            Some("mmproj") => Self::Projector,
            _ if architecture == Some("clip") => Self::Projector,
            Some("model") => Self::Model { architecture: architecture.unwrap_or_default().to_owned() },
            Some(other) => Self::Other(other.to_owned()),
            None => match architecture {
                Some(architecture) => Self::Model { architecture: architecture.to_owned() },
                // Some third-party matrices have no type.
                None if file.tensors().any(|tensor| tensor.name.ends_with(".in_sum2")) => Self::Imatrix,
                None => Self::Other(String::new()),
            },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { architecture } if architecture.is_empty() => f.write_str("a model"),
            Self::Model { architecture } => write!(f, "a model of architecture '{architecture}'"),
            Self::Imatrix => f.write_str("an importance matrix"),
            Self::State => f.write_str("the state of a run"),
            Self::Adapter => f.write_str("a LoRA adapter"),
            Self::Projector => f.write_str("the projector of a multimodal model"),
            Self::Other(name) if name.is_empty() => f.write_str("a GGUF file without a type"),
            Self::Other(name) => write!(f, "a GGUF file of type '{name}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;

    fn kind(pairs: &[(&str, &str)]) -> Kind {
        let mut writer = Writer::new();
        for &(key, value) in pairs {
            writer.set(key, value);
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        Kind::of(&File::from_bytes(&bytes).unwrap())
    }

    #[test]
    fn gguf_files_are_classified_by_type_and_architecture() {
        for (pairs, expected) in [
            (&[("general.architecture", "llama")][..], "a model of architecture 'llama'"),
            (&[("general.type", "model")], "a model"),
            (&[("general.type", "model"), ("general.architecture", "clip")], "the projector of a multimodal model"),
            (&[("general.type", "imatrix")], "an importance matrix"),
            (&[("general.type", "imatrix-state")], "the state of a run"),
            (&[("general.type", "adapter"), ("general.architecture", "llama")], "a LoRA adapter"),
            (&[("general.type", "vector")], "a GGUF file of type 'vector'"),
            (&[], "a GGUF file without a type"),
        ] {
            assert_eq!(kind(pairs).to_string(), expected, "{pairs:?}");
        }
    }
}
