//! Selects the products whose inputs are collected.

use super::product::{Kind, Product};

/// Selects the products whose inputs are collected, as llama.cpp's tool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Minimum number of rows of a dense input: smaller ones are not collected. Fixed at 16 in llama.cpp's tool.
    pub min_rows: i64,
    /// Also collect `output.weight`, `token_embd.weight` (the output matrix if embeddings are tied) and
    /// `nextn.post_projection.weight`.
    pub process_output: bool,
    /// Also collect `nextn.pre_projection.weight`, the projection before a NextN layer.
    pub nextn: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self { min_rows: 16, process_output: false, nextn: false }
    }
}

/// Decision of the rule about a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its input is collected.
    Collected,
    /// The rule selects it, but its input has too few rows.
    TooFewRows,
    /// The rule does not select it.
    PassedOver,
}

impl Rule {
    /// Decides whether the input of `product` is collected.
    #[must_use]
    pub(crate) fn judge(&self, product: &Product<'_>) -> Verdict {
        if product.kind == Kind::Routed {
            return Verdict::Collected;
        }
        if !product.input_is_f32 || !self.names(product.weight) {
            return Verdict::PassedOver;
        }
        if product.input_ne[1] < self.min_rows { Verdict::TooFewRows } else { Verdict::Collected }
    }

    fn names(&self, weight: &str) -> bool {
        match weight {
            "output.weight" | "token_embd.weight" | "nextn.post_projection.weight" => self.process_output,
            "nextn.pre_projection.weight" => self.nextn,
            weight => weight.starts_with("blk."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(weight: &str) -> Product<'_> {
        Product {
            kind: Kind::Dense,
            weight,
            weight_ne: [64, 64, 1, 1],
            input: 1,
            input_ne: [64, 16, 1, 1],
            input_is_f32: true,
            ids: 0,
        }
    }

    #[test]
    fn blocks_are_collected_and_the_output_on_request() {
        let plain = Rule::default();
        let output = Rule { process_output: true, ..plain };
        let nextn = Rule { nextn: true, ..plain };
        for (weight, rules) in [
            ("blk.0.attn_q.weight", [true, true, true]),
            ("output.weight", [false, true, false]),
            ("token_embd.weight", [false, true, false]),
            ("nextn.post_projection.weight", [false, true, false]),
            ("nextn.pre_projection.weight", [false, false, true]),
            ("cls.weight", [false, false, false]),
        ] {
            let found = [plain, output, nextn].map(|rule| rule.judge(&product(weight)) == Verdict::Collected);
            assert_eq!(found, rules, "{weight}");
        }
    }

    #[test]
    fn dense_inputs_with_few_rows_or_another_type_are_not_collected() {
        let rule = Rule::default();
        let mut few = product("blk.0.ffn_up.weight");
        few.input_ne[1] = 15;
        assert_eq!(rule.judge(&few), Verdict::TooFewRows);
        assert_eq!(Rule { min_rows: 15, ..rule }.judge(&few), Verdict::Collected);
        assert_eq!(rule.judge(&Product { weight: "cls.weight", ..few.clone() }), Verdict::PassedOver);
        few.kind = Kind::Routed;
        assert_eq!(rule.judge(&few), Verdict::Collected);
        let half = Product { input_is_f32: false, ..product("blk.0.ffn_up.weight") };
        assert_eq!(rule.judge(&half), Verdict::PassedOver);
    }
}
