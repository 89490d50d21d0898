//! What an observer can learn of a tensor of any kind.

use llama_imatrix::gguf::f16_to_f32;
use llama_imatrix::llama::{DataError, Model, ModelOptions, Observer, ObserverError, Outputs, TensorInfo, TensorRef};

use super::{batch, context_with};
use crate::support;

/// What was found, a line each time.
#[derive(Default)]
struct Look {
    found: Vec<String>,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Look {
    fn note(&mut self, what: &str) {
        if !self.found.iter().any(|found| found == what) {
            self.found.push(what.to_owned());
        }
    }

    /// Holds the conversion against one by hand.
    fn compare(&mut self, tensor: TensorRef<'_>) -> Result<(), DataError> {
        tensor.to_bytes(&mut self.bytes)?;
        tensor.to_f32(&mut self.values)?;
        assert_eq!(self.bytes.len(), tensor.n_bytes());
        assert_eq!(self.values.len(), tensor.n_elements());
        let [n0, n1, n2, _] = tensor.ne().map(|n| n as usize);
        let nb = tensor.nb();
        let at = |i: usize| {
            let (i0, i1, i2, i3) = (i % n0, i / n0 % n1, i / (n0 * n1) % n2, i / (n0 * n1 * n2));
            (i0, i1 * nb[1] + i2 * nb[2] + i3 * nb[3])
        };
        let f16 = |start: usize| f16_to_f32(u16::from_le_bytes([self.bytes[start], self.bytes[start + 1]]));
        for (i, &value) in self.values.iter().enumerate() {
            let (i0, row) = at(i);
            let want = match tensor.type_name() {
                "f32" => f32::from_le_bytes(self.bytes[row + i0 * nb[0]..][..4].try_into().unwrap()),
                "f16" => f16(row + i0 * nb[0]),
                "i32" => i32::from_le_bytes(self.bytes[row + i0 * nb[0]..][..4].try_into().unwrap()) as f32,
                "q8_0" => {
                    let block = row + i0 / 32 * nb[0];
                    f16(block) * f32::from(self.bytes[block + 2 + i0 % 32] as i8)
                }
                "i64" => i64::from_le_bytes(self.bytes[row + i0 * nb[0]..][..8].try_into().unwrap()) as f32,
                other => panic!("{other}"),
            };
            assert!(value.to_bits() == want.to_bits(), "{tensor:?}[{i}]: {value}, not {want}");
        }
        Ok(())
    }
}

impl Observer for Look {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        assert_ne!(node.op_name(), "NONE", "{node:?}");
        true
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        self.note(node.op_name());
        for tensor in [Some(node), node.src(0), node.src(1), node.src(2)].into_iter().flatten() {
            self.compare(tensor)?;
            self.note(tensor.type_name());
            self.note(&tensor.buffer_name().unwrap_or_default());
            if tensor.view_src().is_some() {
                self.note("view");
            }
            let [nb0, nb1, ..] = tensor.nb();
            if nb0 > nb1 && tensor.type_name() == "f32" {
                self.note("transposed");
            }
        }
        Ok(())
    }
}

fn look(options: &ModelOptions) -> Result<Look, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, support::build("qwen2")).unwrap();
    let model = Model::load(&path, options).unwrap();
    let mut context = context_with(&model, Outputs::All, Look::default());
    context.decode(&mut batch()).map_err(|error| error.to_string())?;
    Ok(context.into_observer())
}

#[test]
fn any_tensor_of_a_graph_can_be_read_whatever_its_type_and_layout() {
    let look = look(&ModelOptions { no_repack: true, ..ModelOptions::default() }).unwrap();
    for what in ["MUL_MAT", "RMS_NORM", "SWIGLU", "ROPE", "GET_ROWS", "f32", "f16", "q8_0", "i32", "view", "CPU"] {
        assert!(look.found.iter().any(|found| found == what), "no {what} in {:?}", look.found);
    }
}

/// On CPUs for which ggml repacks this model's weights; on others they are read.
#[test]
fn a_weight_that_was_repacked_is_an_error_and_no_crash() {
    match look(&ModelOptions::default()) {
        Ok(look) => assert!(!look.found.iter().any(|found| found.contains("REPACK")), "{:?}", look.found),
        Err(error) => assert!(error.contains("cannot be read") && error.contains("no_repack"), "{error}"),
    }
}
