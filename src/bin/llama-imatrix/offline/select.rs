//! Selects weights and layers.

use anyhow::bail;
use llama_imatrix::quantize::name_matches;

/// `--layer` and `--tensor`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Selection {
    /// Only these layers: numbers, ranges and labels, such as 0-3,7,mtp0
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    layer: Vec<Layers>,
    /// Only weights whose name contains this text, or matches this pattern of * and ?; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    tensor: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layers {
    Range(i32, i32),
    Label(String),
}

impl std::str::FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<i32>().ok().filter(|&n| n >= 0);
        if let Some(n) = number(text) {
            return Ok(Layers::Range(n, n));
        }
        if let Some((from, to)) = text.split_once('-').and_then(|(a, b)| Some((number(a)?, number(b)?))) {
            return if from <= to { Ok(Layers::Range(from, to)) } else { Err(format!("{from} is more than {to}")) };
        }
        let mtp = text.strip_prefix("mtp").is_some_and(|n| number(n).is_some());
        if mtp || text == "-" { Ok(Layers::Label(text.to_owned())) } else { Err("no layer, range or label".to_owned()) }
    }
}

impl Selection {
    pub(super) fn has_layer(&self, block: Option<i32>, label: &str) -> bool {
        let meant = |layers: &Layers| match layers {
            Layers::Range(from, to) => block.is_some_and(|block| (*from..=*to).contains(&block)),
            Layers::Label(text) => text == label,
        };
        self.layer.is_empty() || self.layer.iter().any(meant)
    }

    pub(super) fn has(&self, block: Option<i32>, label: &str, tensor: &str) -> bool {
        let meant = |pattern: &String| {
            if pattern.contains(['*', '?']) { name_matches(pattern, tensor) } else { tensor.contains(pattern.as_str()) }
        };
        self.has_layer(block, label) && (self.tensor.is_empty() || self.tensor.iter().any(meant))
    }

    /// Fails if nothing was found: the selection is probably a mistake.
    pub(super) fn ensure_some(&self, found: usize) -> anyhow::Result<()> {
        if found == 0 && !(self.layer.is_empty() && self.tensor.is_empty()) {
            bail!("no weight matches --layer and --tensor");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_patterns_select_weights() {
        let list: Vec<Layers> = "0-3,7,mtp0".split(',').map(|s| s.parse().unwrap()).collect();
        let s = Selection { layer: list, tensor: vec!["attn".into(), "blk.?.x".into()] };
        assert!(s.has(Some(2), "2", "blk.2.attn_q.weight") && s.has(Some(7), "7", "blk.7.x"));
        assert!(!s.has(Some(4), "4", "blk.4.attn_q.weight") && !s.has(Some(2), "2", "blk.2.y"));
        assert!(s.has_layer(Some(30), "mtp0") && !s.has_layer(None, "-"));
        for wrong in ["", "x", "3-1", "-1", "1-"] {
            assert!(wrong.parse::<Layers>().is_err(), "{wrong}");
        }
    }
}
