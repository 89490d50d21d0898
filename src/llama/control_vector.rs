//! Control vectors: directions that are added to a model's activations, one per layer.

use std::path::{Path, PathBuf};

use crate::gguf::{DType, File};

/// Directions for the layers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlVector {
    /// Width of a direction.
    n_embd: usize,
    /// Directions of layers 1, 2 and so on; layer 0 has none.
    data: Vec<f32>,
}

/// Reason why a file is not a control vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlVectorError {
    /// Not a readable GGUF file.
    #[error("failed to load control vector file from {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::gguf::Error,
    },
    /// A tensor that is not a direction.
    #[error("control vector '{}': {reason}", path.display())]
    Direction {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ControlVector {
    /// Returns the sum of the vectors in `files`, each times its scale.
    ///
    /// # Errors
    /// [`ControlVectorError`]; all files must have directions of one width.
    pub fn load<'a>(files: impl IntoIterator<Item = (&'a Path, f32)>) -> Result<Self, ControlVectorError> {
        let mut sum = Self { n_embd: 0, data: Vec::new() };
        for (path, scale) in files {
            let file = File::open(path).map_err(|source| ControlVectorError::File { path: path.to_owned(), source })?;
            let wrong = |reason| ControlVectorError::Direction { path: path.to_owned(), reason };
            if file.tensors().len() == 0 {
                return Err(wrong("it holds no directions".to_owned()));
            }
            for tensor in file.tensors() {
                let layer = layer_of(tensor.name)
                    .ok_or_else(|| wrong(format!("'{}' names no layer from 1 on", tensor.name)))?;
                if tensor.dtype != DType::F32 || tensor.n_dims != 1 {
                    return Err(wrong(format!("'{}' is not a row of 32-bit floats", tensor.name)));
                }
                let direction = tensor.to_f32().unwrap_or_default();
                sum.add(layer, &direction, scale).map_err(wrong)?;
            }
        }
        Ok(sum)
    }

    fn add(&mut self, layer: usize, direction: &[f32], scale: f32) -> Result<(), String> {
        if self.n_embd == 0 {
            self.n_embd = direction.len();
        }
        if direction.len() != self.n_embd {
            return Err(format!("a direction of {} values among those of {}", direction.len(), self.n_embd));
        }
        let end = layer * self.n_embd;
        if self.data.len() < end {
            self.data.resize(end, 0.0);
        }
        for (to, from) in self.data[end - self.n_embd..end].iter_mut().zip(direction) {
            *to += from * scale;
        }
        Ok(())
    }

    /// Width of a direction.
    #[must_use]
    pub(crate) fn n_embd(&self) -> usize {
        self.n_embd
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }
}

/// Limit for the layer in a tensor's name, which decides how much memory is allocated. No model has as many layers.
const MAX_LAYERS: usize = 1 << 12;

fn layer_of(name: &str) -> Option<usize> {
    let layer = name.strip_prefix("direction.")?.parse().ok()?;
    (1..=MAX_LAYERS).contains(&layer).then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Writer;

    fn file(dir: &Path, name: &str, directions: &[(&str, &[f32])]) -> PathBuf {
        let mut writer = Writer::new();
        writer.set("general.architecture", "controlvector");
        for (name, values) in directions {
            writer.f32_tensor(*name, &[values.len() as u64], *values).unwrap();
        }
        let path = dir.join(name);
        writer.write_to(std::fs::File::create(&path).unwrap()).unwrap();
        path
    }

    #[test]
    fn vectors_add_up_scaled() {
        let dir = tempfile::tempdir().unwrap();
        let a = file(dir.path(), "a", &[("direction.1", &[1.0, 2.0])]);
        let b = file(dir.path(), "b", &[("direction.3", &[10.0, 20.0]), ("direction.1", &[1.0, 1.0])]);
        let sum = ControlVector::load([(a.as_path(), 2.0), (b.as_path(), -1.0)]).unwrap();
        assert_eq!(sum.data, [1.0, 3.0, 0.0, 0.0, -10.0, -20.0]);
        assert_eq!(sum.n_embd(), 2);
    }

    #[test]
    fn tensors_that_are_not_directions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, says) in [("direction.0", "no layer"), ("blk.1", "no layer"), ("direction.x", "no layer")] {
            let path = file(dir.path(), "bad", &[(name, &[1.0])]);
            let error = ControlVector::load([(path.as_path(), 1.0)]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let path = file(dir.path(), "widths", &[("direction.1", &[1.0]), ("direction.2", &[1.0, 2.0])]);
        let error = ControlVector::load([(path.as_path(), 1.0)]).unwrap_err().to_string();
        assert!(error.contains("2 values among those of 1"), "{error}");
        assert!(ControlVector::load([(dir.path().join("none").as_path(), 1.0)]).is_err());
    }
}
