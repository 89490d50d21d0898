//! Splits a weight's name into layer and tensor.

/// The parts of a weight's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorName<'a> {
    /// Component after `blk`; `"-"` if there is none.
    pub(crate) layer: &'a str,
    /// The part that sorts and groups weights within a layer.
    ///
    /// From names of more than four components upstream removes `blk.N.` and everything from `weight` on. It keeps
    /// shorter names whole.
    pub(crate) tensor: String,
}

impl<'a> TensorName<'a> {
    /// Splits a name by upstream's rules (`process_tensor_name`).
    #[must_use]
    pub(crate) fn new(name: &'a str) -> Self {
        let parts = components(name);
        let layer = parts.windows(2).find(|pair| pair[0] == "blk").map(|pair| pair[1]);
        let tensor = kind(&parts).filter(|kind| !kind.is_empty());
        Self {
            layer: layer.filter(|layer| !layer.is_empty()).unwrap_or("-"),
            tensor: tensor.unwrap_or_else(|| name.to_owned()),
        }
    }

    /// Returns the number that the layer begins with, if any.
    #[must_use]
    pub(crate) fn block(&self) -> Option<i32> {
        leading_int(self.layer)
    }
}

/// Returns the components between dots. A dot at the end starts no component.
fn components(name: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = name.split('.').collect();
    if parts.last() == Some(&"") {
        parts.pop();
    }
    parts
}

fn kind(parts: &[&str]) -> Option<String> {
    let weight = parts.iter().skip(1).position(|&p| p == "weight")? + 1;
    // Skips "blk" and the layer; in short names also the next component. For `blk.N.name.weight` nothing is left then, so
    // the name is kept whole.
    let skip = if parts.len() > 4 { 2 } else { 3 };
    let mut kind = String::new();
    let mut i = 0;
    while let Some(&part) = parts.get(i) {
        if part == "blk" {
            i += skip;
            continue;
        }
        if i == weight {
            break;
        }
        if !kind.is_empty() {
            kind.push('.');
        }
        kind.push_str(part);
        i += 1;
    }
    Some(kind)
}

/// Returns the number that a text begins with, as C++'s `std::stoi` reads it: white space, a sign, digits. `None` without
/// digits or outside the range of `i32`.
#[must_use]
pub(crate) fn leading_int(text: &str) -> Option<i32> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    let magnitude: i64 = digits.get(..end)?.parse().ok()?;
    i32::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// Returns the first `NextN` layer, found by the number of such layers or else by weights whose names begin with `nextn.`;
/// `i32::MAX` if there is none.
#[must_use]
pub(crate) fn first_nextn_layer<'a>(names: impl Iterator<Item = TensorName<'a>>, n_layer_nextn: i32) -> i32 {
    let mut last = -1;
    let mut first = i32::MAX;
    for name in names {
        let Some(block) = name.block() else { continue };
        last = last.max(block);
        if name.tensor.starts_with("nextn.") {
            first = first.min(block);
        }
    }
    if n_layer_nextn > 0 && last >= 0 {
        return last.saturating_add(1).saturating_sub(n_layer_nextn).max(0);
    }
    first
}

/// Returns a layer's label: its number, `mtp0` and up for `NextN` layers, `-` for none.
#[must_use]
pub(crate) fn layer_label(block: i32, nextn_start: i32) -> String {
    match block {
        i32::MIN..0 | i32::MAX => "-".to_owned(),
        _ if block >= nextn_start => format!("mtp{}", block - nextn_start),
        _ => block.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_by_upstreams_rules() {
        let cases = [
            ("blk.3.attn_q.weight", "3", "blk.3.attn_q.weight"),
            ("blk.12.nextn.eh_proj.weight", "12", "nextn.eh_proj"),
            ("output.weight", "-", "output"),
            ("token_embd.weight", "-", "token_embd"),
            ("nextn.pre_projection.weight", "-", "nextn.pre_projection"),
            ("v.blk.1.a.weight", "1", "v.a"),
            ("a.blk.1.weight", "1", "a"),
            ("weight", "-", "weight"),
            ("blk", "-", "blk"),
            ("blk.", "-", "blk."),
            ("blk..x", "-", "blk..x"),
            ("", "-", ""),
            ("blk.1.weight.a.b", "1", "blk.1.weight.a.b"),
            ("a.b.blk.weight.x", "weight", "a.b.x"),
        ];
        for (name, layer, tensor) in cases {
            let found = TensorName::new(name);
            assert_eq!((found.layer, found.tensor.as_str()), (layer, tensor), "{name}");
        }
    }

    #[test]
    fn numbers_are_read_as_stoi_reads_them() {
        let cases = [
            ("7", Some(7)),
            ("007x", Some(7)),
            (" \t-3.", Some(-3)),
            ("+4", Some(4)),
            ("0x10", Some(0)),
            ("2147483647", Some(i32::MAX)),
            ("-2147483648", Some(i32::MIN)),
            ("2147483648", None),
            ("99999999999999999999", None),
            ("-", None),
            ("+-1", None),
            ("x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(leading_int(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nextn_layers_are_found_by_their_number_or_their_names() {
        let first = |names: &[&str], n| first_nextn_layer(names.iter().map(|n| TensorName::new(n)), n);
        let plain = ["blk.0.a.weight", "blk.3.a.weight", "output.weight"];
        assert_eq!(first(&plain, 0), i32::MAX);
        assert_eq!(first(&plain, 1), 3);
        assert_eq!(first(&plain, 9), 0);
        assert_eq!(first(&["output.weight"], 1), i32::MAX);
        assert_eq!(first(&["blk.2.nextn.eh_proj.weight", "blk.3.nextn.eh_proj.weight"], 0), 2);
        assert_eq!(layer_label(3, 3), "mtp0");
        assert_eq!(layer_label(2, 3), "2");
        assert_eq!(layer_label(i32::MAX, 3), "-");
        assert_eq!(layer_label(-1, i32::MAX), "-");
    }
}
