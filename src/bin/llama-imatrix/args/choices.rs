//! Values that are one of a few words: an enum for each, which is also the list of its words.

use llama_imatrix::options::{CacheType, LazyMode, LoadMode, Numa, RopeScaling, SplitMode, SumOn};
use llama_imatrix::state::Accumulate;

/// A value that is given as one of a few words.
pub(crate) trait Choice: Sized {
    /// All words, in the order in which help lists them.
    const WORDS: &'static [&'static str];

    /// Returns the value of a word, or says which words there are.
    fn parse(word: &str) -> Result<Self, String>;

    /// Returns the word of a value.
    fn word(self) -> &'static str;
}

macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal,)+ })+) => {$(
        impl Choice for $name {
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn parse(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(unknown(word, Self::WORDS)),
                }
            }

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    )+};
}

/// `--output-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    Gguf,
    Dat,
}

/// `--fill-experts`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FillExperts {
    None,
    Layer,
    Shown,
}

/// `--nan`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nan {
    Discard,
    Abort,
}

/// `--cpu-products`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CpuProducts {
    Auto,
    Ggml,
}

words! {
    OutputFormat { Gguf = "gguf", Dat = "dat", }
    FillExperts { None = "none", Layer = "layer", Shown = "shown", }
    Nan { Discard = "discard", Abort = "abort", }
    CpuProducts { Auto = "auto", Ggml = "ggml", }
    SumOn { Auto = "auto", Device = "device", Host = "host", }
    SplitMode { None = "none", Layer = "layer", Row = "row", Tensor = "tensor", }
    LoadMode {
        Auto = "auto",
        Read = "none",
        Map = "mmap",
        Lock = "mlock",
        MapAndLock = "mmap+mlock",
        Direct = "dio",
    }
    LazyMode { On = "on", Auto = "auto", Off = "off", }
    CacheType {
        F32 = "f32",
        F16 = "f16",
        Bf16 = "bf16",
        Q8_0 = "q8_0",
        Q4_0 = "q4_0",
        Q4_1 = "q4_1",
        Iq4Nl = "iq4_nl",
        Q5_0 = "q5_0",
        Q5_1 = "q5_1",
    }
    RopeScaling { None = "none", Linear = "linear", Yarn = "yarn", }
    Numa { Distribute = "distribute", Isolate = "isolate", Numactl = "numactl", }
}

/// `--accumulate`
impl Choice for Accumulate {
    const WORDS: &'static [&'static str] = &["f32", "f64"];

    fn parse(word: &str) -> Result<Self, String> {
        word.parse().map_err(|()| unknown(word, Self::WORDS))
    }

    fn word(self) -> &'static str {
        self.name()
    }
}

fn unknown(word: &str, words: &[&str]) -> String {
    format!("invalid value '{word}', not one of {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<C: Choice>() {
        for word in C::WORDS {
            assert_eq!(C::parse(word).unwrap().word(), *word);
        }
        let error = C::parse("no such").err().unwrap();
        assert_eq!(error, format!("invalid value 'no such', not one of {}", C::WORDS.join(", ")));
    }

    #[test]
    fn each_word_is_read_as_the_value_that_is_written_as_it() {
        check::<OutputFormat>();
        check::<FillExperts>();
        check::<Nan>();
        check::<SumOn>();
        check::<SplitMode>();
        check::<LoadMode>();
        check::<LazyMode>();
        check::<CacheType>();
        check::<RopeScaling>();
        check::<Numa>();
        check::<Accumulate>();
    }
}
