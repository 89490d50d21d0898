//! Which products are collected.

use super::product::{Kind, Product};

/// llama.cpp's rule for what belongs into an importance matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Dense inputs of fewer rows are passed over. llama.cpp's tool has 16 fixed.
    pub min_rows: i64,
    /// Also the output matrix and, where it is tied to it, the token embedding.
    pub process_output: bool,
    /// Also the projection in front of a NextN layer.
    pub nextn: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self { min_rows: 16, process_output: false, nextn: false }
    }
}

/// What the rule says about a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its input is collected.
    Collected,
    /// It would be, had it more rows.
    TooFewRows,
    /// It is not.
    PassedOver,
}

impl Rule {
    /// Whether the input of `product` is collected, and if not, why.
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
    fn blocks_are_collected_the_output_on_request() {
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
    fn few_rows_or_another_type_are_passed_over_unless_routed() {
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
