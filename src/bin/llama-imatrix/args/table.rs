//! A row of the flags' table.

use std::ffi::OsStr;

use super::bits::{Bits, Key};
use super::lowargs::{Flags, Tristate};

/// An error that says why a value is wrong.
pub(super) type Checked = Result<(), String>;

/// A flag: one row of the table.
pub(super) struct Flag {
    /// All spellings, with their dashes.
    pub(super) names: &'static [&'static str],
    /// Spellings that say no.
    pub(super) negated: &'static [&'static str],
    /// Placeholder of its value in the help, empty if it takes none.
    pub(super) value: &'static str,
    /// The environment variable that stands for it, or empty.
    pub(super) env: &'static str,
    pub(super) help: &'static str,
    pub(super) effect: Effect,
    /// Effect on the bits of the sums and the perplexity.
    pub(super) bits: Bits,
    pub(super) set: Set,
}

/// Effect of a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The effect that its help describes.
    Acts,
    /// No effect, and the reason.
    Ignored(&'static str),
    /// The effect that its help describes; llama.cpp's tool does not have the flag.
    Ours,
}

/// Type of a flag's value, and the function that stores it.
#[derive(Clone, Copy)]
pub(super) enum Set {
    /// No value.
    Switch(fn(&mut Flags)),
    /// No value; the negated spellings pass `false`.
    Toggle(fn(&mut Flags, bool)),
    /// A whole number.
    Int(fn(&mut Flags, i32) -> Checked),
    /// A number.
    Float(fn(&mut Flags, f32) -> Checked),
    /// One of these words, which are those of a [`Choice`](super::choices::Choice).
    Choice(&'static [&'static str], fn(&mut Flags, &str) -> Checked),
    /// `on` or `off`.
    OnOff(fn(&mut Flags, bool)),
    /// `on`, `off` or `auto`.
    Tristate(fn(&mut Flags, Tristate)),
    /// Text.
    Text(fn(&mut Flags, &str) -> Checked),
    /// Whatever the system hands over: a file's name, or text that need not be UTF-8.
    Raw(fn(&mut Flags, &OsStr) -> Checked),
    /// Two values.
    Pair(fn(&mut Flags, &str, &str) -> Checked),
    /// A request other than a run.
    Special(Special),
}

/// Requests other than a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    /// All flags.
    Help,
    /// The commands, and the flags used most.
    ShortHelp,
    Version,
    Completion(Shell),
    Man,
    CacheList,
    ListDevices,
}

/// Shells there are completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

type Names = &'static [&'static str];

impl Flag {
    pub(super) const fn new(names: Names, value: &'static str, help: &'static str, set: Set) -> Self {
        Self { names, negated: &[], value, env: "", help, effect: Effect::Acts, bits: Bits::Unsaid, set }
    }

    pub(super) const fn switch(names: Names, help: &'static str, set: fn(&mut Flags)) -> Self {
        Self::new(names, "", help, Set::Switch(set))
    }

    pub(super) const fn toggle(names: Names, negated: Names, help: &'static str, set: fn(&mut Flags, bool)) -> Self {
        let mut flag = Self::new(names, "", help, Set::Toggle(set));
        flag.negated = negated;
        flag
    }

    pub(super) const fn int(names: Names, help: &'static str, set: fn(&mut Flags, i32) -> Checked) -> Self {
        Self::new(names, "N", help, Set::Int(set))
    }

    pub(super) const fn float(names: Names, help: &'static str, set: fn(&mut Flags, f32) -> Checked) -> Self {
        Self::new(names, "N", help, Set::Float(set))
    }

    pub(super) const fn env(mut self, env: &'static str) -> Self {
        self.env = env;
        self
    }

    pub(super) const fn value(mut self, value: &'static str) -> Self {
        self.value = value;
        self
    }

    pub(super) const fn ignored(mut self, why: &'static str) -> Self {
        self.effect = Effect::Ignored(why);
        self.same_bits()
    }

    /// Decides no bits.
    pub(super) const fn same_bits(mut self) -> Self {
        self.bits = Bits::Same;
        self
    }

    /// Decides bits by what `key` of a state file holds.
    pub(super) const fn key(mut self, key: Key) -> Self {
        self.bits = Bits::Key(key);
        self
    }

    /// Decides bits, and is in the fingerprint under `name`.
    pub(super) const fn named(mut self, name: &'static str) -> Self {
        self.bits = Bits::Named(name);
        self
    }

    pub(super) const fn ours(mut self) -> Self {
        self.effect = Effect::Ours;
        self
    }

    /// All spellings, those that say no after the others.
    pub(super) fn spellings(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().chain(self.negated).copied()
    }

    /// The variable that says no, for flags that can: `LLAMA_ARG_NO_X` beside `LLAMA_ARG_X`.
    pub(super) fn negated_env(&self) -> Option<String> {
        let name = self.env.strip_prefix("LLAMA_ARG_").filter(|_| !self.negated.is_empty())?;
        Some(format!("LLAMA_ARG_NO_{name}"))
    }

    /// Returns true if its value is a file's name.
    pub(super) fn takes_file(&self) -> bool {
        self.value.starts_with("FNAME") || self.value == "FILE"
    }

    /// The words it takes, if only a few are valid.
    pub(super) fn choices(&self) -> &'static [&'static str] {
        match self.set {
            Set::Choice(choices, _) => choices,
            Set::OnOff(_) => &["on", "off"],
            Set::Tristate(_) => &["on", "off", "auto"],
            _ => &[],
        }
    }
    /// Its first spelling with two dashes.
    pub(super) fn long_name(&self) -> &'static str {
        self.names.iter().find(|name| name.starts_with("--")).unwrap_or(&self.names[0])
    }

    /// Returns true if a second one adds to the first instead of replacing it.
    pub(super) fn adds_up(&self) -> bool {
        super::lowargs::ADD_UP.contains(&self.long_name())
    }
}
