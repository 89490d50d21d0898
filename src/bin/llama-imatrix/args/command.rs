//! The program's commands as data, for the help, completions and the manual page.

/// A command: a word in first place.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// Description in a few words.
    pub(crate) what: &'static str,
    pub(crate) options: Vec<CommandOption>,
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
