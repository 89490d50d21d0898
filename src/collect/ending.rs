//! Where a graph's last product is: what comes after it need not be computed.

use std::hash::{DefaultHasher, Hasher};

/// The products of an evaluation so far, as far as two evaluations are to be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Products {
    count: usize,
    names: u64,
}

/// Learns the products of a graph from the first evaluation of it, and recognizes the last.
#[derive(Debug, Default)]
pub(super) struct Ending {
    so_far: Products,
    /// Whether something was written into memory that may outlive the graph since the last product.
    stored: bool,
    /// Those of a whole evaluation that stores nothing after the last.
    whole: Option<Products>,
    /// Whether this evaluation was ended early.
    over: bool,
}

impl Ending {
    /// The evaluation comes to something that is written into the memory of another tensor.
    #[cfg_attr(not(any(test, feature = "llama")), expect(dead_code, reason = "graphs come with llama.cpp"))]
    pub(super) fn store(&mut self) {
        self.stored = true;
    }

    /// The evaluation comes to the product with `weight`. Whether it may: not after it was ended.
    pub(super) fn product(&mut self, weight: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.so_far.names);
        hasher.write(weight.as_bytes());
        self.so_far = Products { count: self.so_far.count + 1, names: hasher.finish() };
        self.stored = false;
        !self.over
    }

    /// Ends the evaluation with the product that it has come to, if that is the last.
    #[cfg_attr(not(any(test, feature = "llama")), expect(dead_code, reason = "graphs come with llama.cpp"))]
    pub(super) fn end_with_product(&mut self) -> bool {
        self.over |= self.whole == Some(self.so_far);
        self.over
    }

    /// The evaluation is over.
    pub(super) fn end_evaluation(&mut self) {
        if self.whole.is_none() && self.so_far.count > 0 && !self.stored {
            self.whole = Some(self.so_far);
        }
        *self = Self { whole: self.whole, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where an evaluation of these products ends early; `store` is a write elsewhere.
    fn ends(ending: &mut Ending, weights: &[&str]) -> Option<usize> {
        let mut end = None;
        for (i, weight) in weights.iter().enumerate() {
            if *weight == "store" {
                ending.store();
                continue;
            }
            assert!(ending.product(weight));
            if ending.end_with_product() {
                end = Some(i);
                break;
            }
        }
        ending.end_evaluation();
        end
    }

    #[test]
    fn a_graph_ends_where_it_did_the_first_time() {
        let mut ending = Ending::default();
        let graph = ["store", "a", "b", "a"];
        assert_eq!(ends(&mut ending, &graph), None);
        assert_eq!(ends(&mut ending, &graph), Some(3));
        assert_eq!(ends(&mut ending, &graph), Some(3));
        // Another graph, and one that is shorter: all of them.
        assert_eq!(ends(&mut ending, &["b", "a", "a"]), None);
        assert_eq!(ends(&mut ending, &["a", "b"]), None);
        assert_eq!(ends(&mut ending, &graph), Some(3));
    }

    #[test]
    fn what_is_stored_at_the_end_is_computed() {
        let mut ending = Ending::default();
        let graph = ["a", "b", "store"];
        assert_eq!(ends(&mut ending, &graph), None);
        assert_eq!(ends(&mut ending, &graph), None);
    }

    #[test]
    fn a_product_after_the_end_is_found_out() {
        let mut ending = Ending::default();
        ending.end_evaluation();
        assert!(ending.product("a"));
        ending.end_evaluation();
        assert!(ending.product("a") && ending.end_with_product());
        assert!(!ending.product("b"));
    }
}
