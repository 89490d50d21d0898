//! Models and matrices for `check`: tiny tensors with the names and shapes on which `llama-quantize`'s rules depend, and
//! matrices with holes. `scripts/check-quantize.sh` compares `check` with `llama-quantize` on them.

use std::path::Path;
use std::{fs, io};

use llama_imatrix::gguf::{DType, Writer};
use llama_imatrix::imatrix::{Entry, Format, Imatrix};

use super::rng::Rng;

/// Rows per matrix: the rules depend on the length of a row, never on the number of rows.
const ROWS: u64 = 2;
/// Tokens of a matrix.
const TOKENS: i64 = 1000;

/// Name, type and shape.
type Tensor = (String, DType, Vec<u64>);
/// Makes the bytes of a file from a whole matrix.
type Edit = fn(Imatrix) -> Vec<u8>;

/// A model for `check`.
pub struct CheckModel {
    pub name: &'static str,
    arch: &'static str,
    n_layer: u32,
    n_head: [u32; 2],
    n_expert: u32,
    n_nextn: u32,
    tensors: fn() -> Vec<Tensor>,
}

/// The models.
pub const CHECK_MODELS: &[CheckModel] = &[
    CheckModel {
        name: "dense",
        arch: "llama",
        n_layer: 16,
        n_head: [8, 2],
        n_expert: 0,
        n_nextn: 0,
        tensors: || layers(0..16, 256, &DENSE, true),
    },
    CheckModel {
        name: "moe",
        arch: "llama",
        n_layer: 9,
        n_head: [8, 8],
        n_expert: 8,
        n_nextn: 1,
        tensors: || [layers(0..8, 256, &ROUTED, false), layers(8..9, 256, &NEXTN, false)].concat(),
    },
    // Of the 80 layers of a "70B" only some are in the file.
    CheckModel {
        name: "large",
        arch: "qwen2",
        n_layer: 80,
        n_head: [8, 4],
        n_expert: 0,
        n_nextn: 0,
        tensors: || layers(0..6, 256, &DENSE, false),
    },
    CheckModel {
        name: "falcon",
        arch: "falcon",
        n_layer: 32,
        n_head: [8, 1],
        n_expert: 0,
        n_nextn: 0,
        tensors: || layers(0..5, 256, &FALCON, true),
    },
    // Rows that no block of 256 fits, and, in the last layer, no block of 32.
    CheckModel {
        name: "narrow",
        arch: "llama",
        n_layer: 3,
        n_head: [8, 8],
        n_expert: 16,
        n_nextn: 0,
        tensors: || [layers(0..2, 128, &ROUTED, true), layers(2..3, 40, &DENSE, false)].concat(),
    },
    CheckModel {
        name: "quantized",
        arch: "llama",
        n_layer: 1,
        n_head: [8, 8],
        n_expert: 0,
        n_nextn: 0,
        tensors: || {
            let mut tensors = layers(0..1, 256, &DENSE, true);
            tensors[2].1 = DType::Q8_0;
            tensors
        },
    },
];

const DENSE: [(&str, u64); 8] = [
    ("attn_norm.weight", 0),
    ("attn_q.weight", 1),
    ("attn_k.weight", 1),
    ("attn_v.weight", 1),
    ("attn_output.weight", 1),
    ("ffn_gate.weight", 1),
    ("ffn_up.weight", 1),
    ("ffn_down.weight", 1),
];
const ROUTED: [(&str, u64); 10] = [
    ("attn_norm.weight", 0),
    ("attn_q.weight", 1),
    ("attn_k.weight", 1),
    ("attn_v.weight", 1),
    ("attn_output.weight", 1),
    ("ffn_gate_inp.weight", 1),
    ("ffn_gate_exps.weight", 8),
    ("ffn_up_exps.weight", 8),
    ("ffn_down_exps.weight", 8),
    ("attn_k_b.weight", 4),
];
const NEXTN: [(&str, u64); 4] =
    [("attn_q.weight", 1), ("ffn_down_exps.weight", 8), ("nextn.eh_proj.weight", 1), ("nextn.enorm.weight", 0)];
const FALCON: [(&str, u64); 4] =
    [("attn_qkv.weight", 1), ("attn_output.weight", 1), ("ffn_up.weight", 1), ("ffn_down.weight", 1)];

/// Tensors of some layers with rows of `row` elements, and those outside the layers with the first of them. The second
/// column is the number of matrices; 0 for a vector.
fn layers(range: std::ops::Range<u32>, row: u64, kinds: &[(&str, u64)], has_output: bool) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    if range.start == 0 {
        tensors.push(("token_embd.weight".to_owned(), DType::F32, vec![row, ROWS]));
        tensors.push(("output_norm.weight".to_owned(), DType::F32, vec![row]));
        if has_output {
            tensors.push(("output.weight".to_owned(), DType::F32, vec![row, ROWS]));
        }
    }
    for layer in range {
        for &(kind, matrices) in kinds {
            let shape = if matrices == 0 { vec![row] } else { vec![row, ROWS, matrices] };
            let dtype = if kind.contains("_exps") { DType::F16 } else { DType::F32 };
            tensors.push((format!("blk.{layer}.{kind}"), dtype, shape));
        }
    }
    tensors
}

impl CheckModel {
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let key = |key: &str| format!("{}.{key}", self.arch);
        writer.set("general.architecture", self.arch).set(key("block_count"), self.n_layer);
        writer.set(key("context_length"), 128_u32).set(key("embedding_length"), 256_u32);
        writer.set(key("feed_forward_length"), 256_u32).set(key("attention.head_count"), self.n_head[0]);
        writer.set(key("attention.head_count_kv"), self.n_head[1]);
        writer.set(key("attention.layer_norm_rms_epsilon"), 1e-5_f32);
        writer.set(key("attention.layer_norm_epsilon"), 1e-5_f32);
        if self.n_expert > 0 {
            writer.set(key("expert_count"), self.n_expert).set(key("expert_used_count"), 2_u32);
        }
        if self.n_nextn > 0 {
            writer.set(key("nextn_predict_layers"), self.n_nextn);
        }
        for (name, dtype, shape) in (self.tensors)() {
            let n: u64 = shape.iter().product();
            let mut rng = Rng::named(&[self.name, &name]);
            let values: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
            let bytes = match dtype {
                DType::F16 => super::quant::f16_bytes(&values),
                DType::Q8_0 => super::quant::q8_0_bytes(&values),
                _ => super::quant::f32_bytes(&values),
            };
            writer.tensor(name, dtype, &shape, bytes).unwrap();
        }
        let mut out = Vec::new();
        writer.write_to(&mut out).unwrap();
        out
    }

    /// A matrix with data for all matrices of the layers.
    fn full(&self) -> Imatrix {
        let mut matrix = Imatrix {
            chunk_size: 50,
            chunk_count: (TOKENS / 50) as i32,
            datasets: vec!["calibration.txt".into()],
            ..Imatrix::default()
        };
        for (name, _, shape) in (self.tensors)() {
            if !name.starts_with("blk.") || shape.len() < 2 || name.contains("ffn_gate_inp") {
                continue;
            }
            let per_expert = name.contains("_exps");
            let counts = if per_expert { vec![TOKENS; shape[2] as usize] } else { vec![TOKENS] };
            matrix.entries.insert(name.clone(), entry(&name, (shape[0] * shape[2]) as usize, counts));
        }
        matrix
    }

    /// The matrices, by name: bytes of their files.
    pub fn matrices(&self) -> Vec<(&'static str, Vec<u8>)> {
        MATRICES.iter().map(|&(name, edit)| (name, edit(self.full()))).collect()
    }
}

fn entry(name: &str, n: usize, counts: Vec<i64>) -> Entry {
    let mut rng = Rng::named(&["matrix", name]);
    let sum2: Vec<f32> = (0..n).map(|_| (rng.normal().abs() + 0.1) * TOKENS as f32).collect();
    let sum = Some(sum2.iter().map(|x| x / 2.0).collect());
    Entry { sum2, sum, counts }
}

fn gguf(matrix: &Imatrix) -> Vec<u8> {
    bytes(matrix, Format::Gguf)
}

fn bytes(matrix: &Imatrix, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    matrix.write(&mut out, format).unwrap();
    out
}

fn without(mut matrix: Imatrix, is: impl Fn(&str) -> bool) -> Imatrix {
    matrix.entries.retain(|name, _| !is(name));
    matrix
}

/// Changes the entry in the middle.
fn with_entry(mut matrix: Imatrix, change: impl Fn(&mut Entry)) -> Vec<u8> {
    let at = matrix.entries.len() / 2;
    change(matrix.entries.values_mut().nth(at).unwrap());
    gguf(&matrix)
}

/// The matrices: holes, damage and other models' names.
const MATRICES: &[(&str, Edit)] = &[
    ("full", |m| gguf(&m)),
    ("no-layer-1", |m| gguf(&without(m, |name| name.starts_with("blk.1.")))),
    ("no-attn-v", |m| gguf(&without(m, |name| name.contains("attn_v") || name.contains("attn_qkv")))),
    ("no-first-ffn-down", |m| gguf(&without(m, |name| name.starts_with("blk.0.ffn_down")))),
    ("no-attn-output", |m| gguf(&without(m, |name| name.contains("attn_output")))),
    ("no-attn-q-k", |m| gguf(&without(m, |name| name.contains("attn_q.") || name.contains("attn_k.")))),
    ("no-ffn", |m| gguf(&without(m, |name| name.contains("ffn_")))),
    ("no-attention", |m| gguf(&without(m, |name| name.contains("attn_")))),
    ("no-ffn-up-2", |m| gguf(&without(m, |name| name.starts_with("blk.2.ffn_up")))),
    ("no-nextn", |m| gguf(&without(m, |name| name.starts_with("blk.8.")))),
    ("one-entry", |m| {
        let first = m.entries.keys().next().cloned().unwrap();
        gguf(&without(m, |name| name != first))
    }),
    ("half-an-entry", |m| {
        with_entry(m, |entry| {
            entry.sum2.truncate(entry.sum2.len() / 2);
            entry.sum = None;
            entry.counts.truncate(1);
        })
    }),
    ("other-embedding", |mut m| {
        m.entries.insert("token_embd.weight".into(), entry("token_embd.weight", 8, vec![TOKENS]));
        gguf(&m)
    }),
    ("with-output", |mut m| {
        for name in ["output.weight", "token_embd.weight"] {
            let n = m.entries.values().next().unwrap().sum2.len();
            m.entries.insert(name.into(), entry(name, n, vec![TOKENS]));
        }
        gguf(&m)
    }),
    ("not-finite", |m| with_entry(m, |entry| entry.sum2[3] = f32::INFINITY)),
    ("not-finite-without-rows", |m| {
        with_entry(m, |entry| {
            entry.sum2[3] = f32::NAN;
            entry.counts.fill(0);
        })
    }),
    ("not-finite-elsewhere", |mut m| {
        let mut other = entry("other", 8, vec![TOKENS]);
        other.sum2[1] = f32::NAN;
        m.entries.insert("blk.0.other.weight".into(), other);
        gguf(&m)
    }),
    ("all-zero", |m| with_entry(m, |entry| entry.sum2.fill(0.0))),
    ("no-rows", |m| with_entry(m, |entry| entry.counts.fill(0))),
    ("unseen-experts", |mut m| {
        for entry in m.entries.values_mut().filter(|entry| entry.counts.len() > 1) {
            entry.counts[1] = 0;
            entry.counts[2] = 7;
        }
        gguf(&m)
    }),
    ("other-names", |m| {
        let entries = m.entries.into_iter().map(|(name, entry)| (name.replace("blk.", "block."), entry)).collect();
        gguf(&Imatrix { entries, ..m })
    }),
    ("legacy.dat", |m| bytes(&m, Format::Dat)),
    ("legacy-no-attn-v.dat", |m| {
        bytes(&without(m, |name| name.contains("attn_v") || name.contains("attn_qkv")), Format::Dat)
    }),
    ("no-metadata", |m| {
        let mut writer = Writer::new();
        writer.set("general.type", "imatrix");
        for (name, entry) in &m.entries {
            let n = entry.counts.len() as u64;
            let shape = [entry.sum2.len() as u64 / n, n];
            let counts: Vec<f32> = entry.counts.iter().map(|&count| count as f32).collect();
            writer.f32_tensor(format!("{name}.in_sum2"), &shape, entry.sum2.clone()).unwrap();
            writer.f32_tensor(format!("{name}.counts"), &[1, n], counts).unwrap();
        }
        let mut out = Vec::new();
        writer.write_to(&mut out).unwrap();
        out
    }),
];

/// Writes `DIR/MODEL.gguf` and `DIR/MODEL/MATRIX` for all models.
pub fn write_check(dir: &Path) -> io::Result<()> {
    for model in CHECK_MODELS {
        let folder = dir.join(model.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.with_extension("gguf"), model.bytes())?;
        for (name, bytes) in model.matrices() {
            let name = if name.contains('.') { name.to_owned() } else { format!("{name}.gguf") };
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
