//! The file types that `llama-quantize` writes.

use crate::gguf::DType;

macro_rules! file_types {
    ($($variant:ident = $id:literal, $name:literal, $default:ident;)*) => {
        /// A file type (`llama_ftype`): the argument of `llama-quantize` that selects a mix of tensor types.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // the variants are llama.cpp's names
        #[allow(non_camel_case_types)]
        pub enum FileType { $($variant = $id,)* }

        impl FileType {
            /// All file types, in the order of `llama-quantize`'s help.
            pub const ALL: &'static [FileType] = &[$(FileType::$variant,)*];

            /// Returns the name that `llama-quantize` takes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(FileType::$variant => $name,)* }
            }

            /// Returns the tensor type that the mix starts from.
            #[must_use]
            pub const fn default_type(self) -> DType {
                match self { $(FileType::$variant => DType::$default,)* }
            }
        }
    };
}

// Ids from `llama.h`.
file_types! {
    Q1_0 = 40, "Q1_0", Q1_0;
    Q2_0 = 41, "Q2_0", Q2_0;
    Q4_0 = 2, "Q4_0", Q4_0;
    Q4_1 = 3, "Q4_1", Q4_1;
    MXFP4_MOE = 38, "MXFP4_MOE", MXFP4;
    Q5_0 = 8, "Q5_0", Q5_0;
    Q5_1 = 9, "Q5_1", Q5_1;
    IQ2_XXS = 19, "IQ2_XXS", IQ2_XXS;
    IQ2_XS = 20, "IQ2_XS", IQ2_XS;
    IQ2_S = 28, "IQ2_S", IQ2_XS;
    IQ2_M = 29, "IQ2_M", IQ2_S;
    IQ1_S = 24, "IQ1_S", IQ1_S;
    IQ1_M = 31, "IQ1_M", IQ1_M;
    TQ1_0 = 36, "TQ1_0", TQ1_0;
    TQ2_0 = 37, "TQ2_0", TQ2_0;
    Q2_K = 10, "Q2_K", Q2_K;
    Q2_K_S = 21, "Q2_K_S", Q2_K;
    IQ3_XXS = 23, "IQ3_XXS", IQ3_XXS;
    IQ3_S = 26, "IQ3_S", IQ3_S;
    IQ3_M = 27, "IQ3_M", IQ3_S;
    IQ3_XS = 22, "IQ3_XS", IQ3_S;
    Q3_K_S = 11, "Q3_K_S", Q3_K;
    Q3_K_M = 12, "Q3_K_M", Q3_K;
    Q3_K_L = 13, "Q3_K_L", Q3_K;
    IQ4_NL = 25, "IQ4_NL", IQ4_NL;
    IQ4_XS = 30, "IQ4_XS", IQ4_XS;
    Q4_K_S = 14, "Q4_K_S", Q4_K;
    Q4_K_M = 15, "Q4_K_M", Q4_K;
    Q5_K_S = 16, "Q5_K_S", Q5_K;
    Q5_K_M = 17, "Q5_K_M", Q5_K;
    Q6_K = 18, "Q6_K", Q6_K;
    Q8_0 = 7, "Q8_0", Q8_0;
    F16 = 1, "F16", F16;
    BF16 = 32, "BF16", BF16;
    F32 = 0, "F32", F32;
}

/// Other names that `llama-quantize` takes.
const ALIASES: [(&str, FileType); 3] =
    [("Q3_K", FileType::Q3_K_M), ("Q4_K", FileType::Q4_K_M), ("Q5_K", FileType::Q5_K_M)];

impl FileType {
    /// Returns the id that llama.cpp stores in `general.file_type`.
    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Finds a file type by its name, in upper or lower case, or by its id.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let by_name = || Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name));
        let by_alias = || ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map(|&(_, t)| t);
        let by_id = || {
            let id: u32 = name.parse().ok()?;
            Self::ALL.iter().copied().find(|t| t.id() == id)
        };
        by_name().or_else(by_alias).or_else(by_id)
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_and_ids_are_found() {
        for &t in FileType::ALL {
            assert_eq!(FileType::from_name(t.name()), Some(t));
            assert_eq!(FileType::from_name(&t.name().to_lowercase()), Some(t));
            assert_eq!(FileType::from_name(&t.id().to_string()), Some(t));
        }
        assert_eq!(FileType::from_name("q4_k"), Some(FileType::Q4_K_M));
        assert_eq!([FileType::from_name("Q9"), FileType::from_name("4"), FileType::from_name("")], [None; 3]);
    }
}
