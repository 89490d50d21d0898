//! Tensor element types and the sizes of their blocks.

macro_rules! dtypes {
    ($($variant:ident = $id:literal, $name:literal, $block:literal, $bytes:literal;)*) => {
        /// The element type of a tensor (`ggml_type`), without the types that ggml has removed.
        ///
        /// Quantized types store blocks of [`block_len`](DType::block_len) elements in
        /// [`block_bytes`](DType::block_bytes) bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // the variants are ggml's names
        #[allow(non_camel_case_types)]
        pub enum DType { $($variant = $id,)* }

        impl DType {
            /// All types in the order of their ids.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// Returns the type that has this id in a file; `None` for an unknown or removed id.
            #[must_use]
            pub(crate) const fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(DType::$variant),)* _ => None }
            }

            /// Returns ggml's name for the type, such as `q4_K`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Returns the number of elements per block; 1 for types that are not quantized.
            #[must_use]
            pub const fn block_len(self) -> u64 {
                match self { $(DType::$variant => $block,)* }
            }

            /// Returns the number of bytes per block.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $(DType::$variant => $bytes,)* }
            }
        }
    };
}

// Ids from `ggml.h`; elements and bytes per block from the structs in `ggml-common.h`.
dtypes! {
    F32 = 0, "f32", 1, 4;
    F16 = 1, "f16", 1, 2;
    Q4_0 = 2, "q4_0", 32, 18;
    Q4_1 = 3, "q4_1", 32, 20;
    Q5_0 = 6, "q5_0", 32, 22;
    Q5_1 = 7, "q5_1", 32, 24;
    Q8_0 = 8, "q8_0", 32, 34;
    Q8_1 = 9, "q8_1", 32, 36;
    Q2_K = 10, "q2_K", 256, 84;
    Q3_K = 11, "q3_K", 256, 110;
    Q4_K = 12, "q4_K", 256, 144;
    Q5_K = 13, "q5_K", 256, 176;
    Q6_K = 14, "q6_K", 256, 210;
    Q8_K = 15, "q8_K", 256, 292;
    IQ2_XXS = 16, "iq2_xxs", 256, 66;
    IQ2_XS = 17, "iq2_xs", 256, 74;
    IQ3_XXS = 18, "iq3_xxs", 256, 98;
    IQ1_S = 19, "iq1_s", 256, 50;
    IQ4_NL = 20, "iq4_nl", 32, 18;
    IQ3_S = 21, "iq3_s", 256, 110;
    IQ2_S = 22, "iq2_s", 256, 82;
    IQ4_XS = 23, "iq4_xs", 256, 136;
    I8 = 24, "i8", 1, 1;
    I16 = 25, "i16", 1, 2;
    I32 = 26, "i32", 1, 4;
    I64 = 27, "i64", 1, 8;
    F64 = 28, "f64", 1, 8;
    IQ1_M = 29, "iq1_m", 256, 56;
    BF16 = 30, "bf16", 1, 2;
    TQ1_0 = 34, "tq1_0", 256, 54;
    TQ2_0 = 35, "tq2_0", 256, 66;
    MXFP4 = 39, "mxfp4", 32, 17;
    NVFP4 = 40, "nvfp4", 64, 36;
    Q1_0 = 41, "q1_0", 128, 18;
    Q2_0 = 42, "q2_0", 64, 18;
}

impl DType {
    /// Returns the id that a file stores.
    #[must_use]
    pub(crate) const fn id(self) -> u32 {
        self as u32
    }

    /// Returns the size of `elements` elements in bytes; `None` unless they fill whole blocks and the size fits 64 bits.
    #[must_use]
    pub const fn bytes_for(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_removed_ids_are_unknown() {
        for &t in DType::ALL {
            assert_eq!(DType::from_id(t.id()), Some(t));
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(DType::from_id(removed), None);
        }
    }

    #[test]
    fn bytes_are_whole_blocks() {
        assert_eq!(DType::Q4_K.bytes_for(512), Some(288));
        assert_eq!(DType::Q4_K.bytes_for(100), None);
        assert_eq!(DType::F64.bytes_for(u64::MAX / 4), None);
    }
}
