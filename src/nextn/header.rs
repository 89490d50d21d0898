//! What a model file says of its layers, read from its header.

use std::collections::BTreeMap;
use std::path::Path;

use crate::gguf::{self, File, Value};

/// The layers of a model file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// `general.architecture`.
    pub arch: String,
    /// All layers, as the file's keys count them.
    pub n_layer: u32,
    /// Those that are `NextN` layers, as the file's keys count them.
    pub n_layer_nextn: u32,
    /// Values in a hidden state as it leaves the last layer.
    pub n_embd_out: u32,
    /// Parts the model is split into; 1 for a whole one.
    pub n_parts: u16,
    /// Whether the file has tensors of layer 0 that are not of `NextN`.
    pub has_trunk: bool,
    /// The first of its `NextN` tensors.
    pub first_nextn: Option<String>,
    /// Layers that have `NextN` tensors.
    pub blocks: BTreeMap<u32, Block>,
}

/// The `NextN` tensors of one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Block {
    /// Whether it has an output matrix of its own.
    pub own_head: bool,
}

impl Shape {
    /// Reads a model file's header.
    ///
    /// # Errors
    /// Where it is no readable, whole GGUF file.
    pub fn read(path: &Path) -> Result<Self, gguf::Error> {
        Ok(Self::of(&File::open(path)?))
    }

    /// The shape of an open file.
    #[must_use]
    pub fn of(file: &File<'_>) -> Self {
        let mut shape = Self { n_parts: 1, ..Self::default() };
        if let Some(Value::String(arch)) = file.get("general.architecture") {
            let number = |key: &str| match file.get(&format!("{arch}.{key}")) {
                Some(&Value::U32(value)) => Some(value),
                _ => None,
            };
            shape.n_layer = number("block_count").unwrap_or(0);
            shape.n_layer_nextn = number("nextn_predict_layers").unwrap_or(0);
            let width = number("embedding_length_out").or_else(|| number("embedding_length"));
            shape.n_embd_out = width.unwrap_or(0);
            shape.arch.clone_from(arch);
        }
        if let Some(&Value::U16(parts)) = file.get("split.count") {
            shape.n_parts = parts.max(1);
        }
        file.tensors().for_each(|tensor| shape.see(tensor.name));
        shape
    }

    fn see(&mut self, tensor: &str) {
        if !tensor.contains(".nextn.") {
            self.has_trunk |= tensor.starts_with("blk.0.");
            return;
        }
        self.first_nextn.get_or_insert_with(|| tensor.to_owned());
        if let Some((index, name)) = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
            && let Some(name) = name.strip_prefix("nextn.")
            && index.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(index) = index.parse()
        {
            self.blocks.entry(index).or_default().own_head |= name == "shared_head_head.weight";
        }
    }

    /// Layers that are not of `NextN`.
    #[must_use]
    pub fn n_trunk(&self) -> u32 {
        self.n_layer.saturating_sub(self.n_layer_nextn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_tell_trunk_from_nextn() {
        let mut shape = Shape::default();
        for tensor in ["token_embd.weight", "blk.1.attn_q.weight", "blk.0.nextn.enorm.weight"] {
            shape.see(tensor);
        }
        assert!(!shape.has_trunk);
        assert_eq!(shape.first_nextn.as_deref(), Some("blk.0.nextn.enorm.weight"));
        for tensor in ["blk.0.attn_q.weight", "blk.12.nextn.shared_head_head.weight", "blk.x.nextn.enorm.weight"] {
            shape.see(tensor);
        }
        for tensor in ["blk..nextn.enorm.weight", "a.nextn.b", "blk.99999999999.nextn.enorm.weight"] {
            shape.see(tensor);
        }
        assert!(shape.has_trunk);
        let blocks = [(0, Block { own_head: false }), (12, Block { own_head: true })];
        assert_eq!(shape.blocks, BTreeMap::from(blocks));
    }

    #[test]
    fn more_nextn_layers_than_layers_leave_no_trunk() {
        assert_eq!(Shape { n_layer: 2, n_layer_nextn: 3, ..Shape::default() }.n_trunk(), 0);
        assert_eq!(Shape { n_layer: 3, n_layer_nextn: 1, ..Shape::default() }.n_trunk(), 2);
    }
}
