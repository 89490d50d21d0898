//! The program's commands as data, for the help, completions and the manual page.

/// A command: a word in first place.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// Description in a few words.
    pub(crate) what: &'static str,
    /// What follows the name: `FILE..`, `[OPTIONS]`.
    pub(crate) usage: String,
    pub(crate) operands: Operands,
    pub(crate) options: Vec<CommandOption>,
}

/// What a command takes besides options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operands {
    Nothing,
    Files,
    /// One of these words.
    Words(Vec<&'static str>),
}

/// An option of a command.
pub(crate) struct CommandOption {
    /// All spellings, with their dashes.
    pub(crate) names: Vec<String>,
    /// Placeholder of its value, empty if it takes none.
    pub(crate) value: String,
    pub(crate) help: String,
    /// The words it takes, if only a few are valid.
    pub(crate) choices: Vec<String>,
}

impl CommandOption {
    /// Returns true if its value is the name of a file or folder.
    pub(crate) fn takes_file(&self) -> bool {
        ["FILE", "PAGE", "DIR"].contains(&self.value.as_str())
    }
}
