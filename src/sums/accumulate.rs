use std::fmt;
use std::str::FromStr;

/// How sums are added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulate {
    /// Sums in f32, added in the order of the chunks, with the bits of llama.cpp's tool.
    #[default]
    F32,
    /// Exact sums, added in any order and rounded once at the end: see [`crate::exact`].
    F64,
}

impl Accumulate {
    /// Returns its name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

impl fmt::Display for Accumulate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Accumulate {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        [Self::F32, Self::F64].into_iter().find(|kind| kind.name() == s).ok_or(())
    }
}
