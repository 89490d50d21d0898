//! The roles of tensors, told by their names.

/// The role of a tensor, as far as a mix distinguishes roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    TokenEmbd,
    AttnQ,
    AttnV,
    AttnK,
    AttnQkv,
    AttnKvB,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Output,
    Other,
}

impl Category {
    pub(super) fn of(name: &str) -> Self {
        /// The first part that a name contains decides.
        const PARTS: [(&str, Category); 9] = [
            ("attn_qkv.weight", Category::AttnQkv),
            ("attn_kv_b.weight", Category::AttnKvB),
            ("attn_v.weight", Category::AttnV),
            ("attn_k.weight", Category::AttnK),
            ("attn_q.weight", Category::AttnQ),
            ("attn_output.weight", Category::AttnOutput),
            ("ffn_up", Category::FfnUp),
            ("ffn_gate", Category::FfnGate),
            ("ffn_down", Category::FfnDown),
        ];
        if name == "output.weight" {
            Self::Output
        } else if is_token_embd(name) {
            Self::TokenEmbd
        } else {
            PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Self::Other, |&(_, category)| category)
        }
    }

    /// Returns true for tensors that are as sensitive as `attn_v`.
    pub(super) const fn is_attn_v(self) -> bool {
        matches!(self, Self::AttnV | Self::AttnQkv | Self::AttnKvB)
    }
}

/// Returns true for embeddings of tokens, which are looked up and never multiplied.
pub(super) fn is_token_embd(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "per_layer_token_embd.weight")
}
