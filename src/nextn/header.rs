//! The layers of a model file, read from its header.

use std::collections::BTreeMap;
use std::path::Path;

use crate::gguf::{self, File, Value};

/// The layers of a model file, by its keys and tensor names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelHeader {
    /// `general.architecture`.
    pub(super) arch: String,
    /// Number of layers, by the file's keys.
    pub(super) n_layer: u32,
    /// Number of `NextN` layers, by the file's keys.
    pub(super) n_layer_nextn: u32,
    /// Width of the hidden state after the last layer.
    pub(super) n_embd_out: u32,
    /// Number of parts that the model is split into; 1 if it is not split.
    pub(super) n_parts: u16,
    /// True if the file has tensors of layer 0 that are not `NextN` tensors.
    pub(super) has_trunk: bool,
    /// Name of the first `NextN` tensor.
    pub(super) first_nextn: Option<String>,
    /// Layers that have `NextN` tensors.
    pub(super) blocks: BTreeMap<u32, Block>,
}

/// The `NextN` tensors of one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// True if the layer has its own LM head.
    pub(super) own_head: bool,
}

impl ModelHeader {
    /// Reads a model file's header.
    ///
    /// # Errors
    /// A file that is not a readable, complete GGUF file.
    pub fn read(path: &Path) -> Result<Self, gguf::Error> {
        Ok(Self::of(&File::open(path)?))
    }

    /// Returns the header of an open file.
    fn of(file: &File<'_>) -> Self {
        let mut header = Self { n_parts: 1, ..Self::default() };
        if let Some(Value::String(arch)) = file.get("general.architecture") {
            let number = |key: &str| match file.get(&format!("{arch}.{key}")) {
                Some(&Value::U32(value)) => Some(value),
                _ => None,
            };
            header.n_layer = number("block_count").unwrap_or(0);
            header.n_layer_nextn = number("nextn_predict_layers").unwrap_or(0);
            let width = number("embedding_length_out").or_else(|| number("embedding_length"));
            header.n_embd_out = width.unwrap_or(0);
            header.arch.clone_from(arch);
        }
        if let Some(&Value::U16(parts)) = file.get("split.count") {
            header.n_parts = parts.max(1);
        }
        file.tensors().for_each(|tensor| header.see(tensor.name));
        header
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

    /// Returns the number of layers that are not `NextN` layers.
    pub(super) fn n_trunk(&self) -> u32 {
        self.n_layer.saturating_sub(self.n_layer_nextn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_names_tell_trunk_layers_from_nextn_layers() {
        let mut header = ModelHeader::default();
        for tensor in ["token_embd.weight", "blk.1.attn_q.weight", "blk.0.nextn.enorm.weight"] {
            header.see(tensor);
        }
        assert!(!header.has_trunk);
        assert_eq!(header.first_nextn.as_deref(), Some("blk.0.nextn.enorm.weight"));
        for tensor in ["blk.0.attn_q.weight", "blk.12.nextn.shared_head_head.weight", "blk.x.nextn.enorm.weight"] {
            header.see(tensor);
        }
        for tensor in ["blk..nextn.enorm.weight", "a.nextn.b", "blk.99999999999.nextn.enorm.weight"] {
            header.see(tensor);
        }
        assert!(header.has_trunk);
        let blocks = [(0, Block { own_head: false }), (12, Block { own_head: true })];
        assert_eq!(header.blocks, BTreeMap::from(blocks));
    }

    #[test]
    fn more_nextn_layers_than_layers_leave_no_trunk() {
        assert_eq!(ModelHeader { n_layer: 2, n_layer_nextn: 3, ..ModelHeader::default() }.n_trunk(), 0);
        assert_eq!(ModelHeader { n_layer: 3, n_layer_nextn: 1, ..ModelHeader::default() }.n_trunk(), 2);
    }
}
