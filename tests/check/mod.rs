//! `check` predicts what `llama-quantize` did: `tests/data/check/quantize.txt`.

use std::collections::BTreeMap;
use std::path::Path;

use llama_imatrix::check::{Check, Model, Options, Verdict, check};
use llama_imatrix::imatrix::File;
use llama_imatrix::mixture::FileType;

use crate::support::CHECK_MODELS;

const GOLDEN: &str = include_str!("../data/check/quantize.txt");

/// The models as files, and the matrices in memory.
struct Cases {
    _dir: tempfile::TempDir,
    models: BTreeMap<&'static str, Model>,
    matrices: BTreeMap<(&'static str, String), Vec<u8>>,
}

impl Cases {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut models, mut matrices) = (BTreeMap::new(), BTreeMap::new());
        for model in CHECK_MODELS {
            let path = dir.path().join(model.name).with_extension("gguf");
            std::fs::write(&path, model.bytes()).unwrap();
            models.insert(model.name, Model::open(&path).unwrap());
            for (name, bytes) in model.matrices() {
                let name = if Path::new(name).extension().is_some() { name.to_owned() } else { format!("{name}.gguf") };
                matrices.insert((model.name, name), bytes);
            }
        }
        Self { _dir: dir, models, matrices }
    }

    fn check(&self, model: &str, matrix: &str, file_type: Option<FileType>) -> Check {
        let name = CHECK_MODELS.iter().find(|known| known.name == model).unwrap().name;
        let file = File::from_bytes(&self.matrices[&(name, matrix.to_owned())]).unwrap();
        check(&self.models[name], &file.load().unwrap(), Options { file_type, ..Options::default() })
    }
}

/// Undoes `q4_K*3`.
fn expanded(types: &str) -> Vec<&str> {
    let one = |part| {
        let (name, n) = str::split_once(part, '*').unwrap_or((part, "1"));
        std::iter::repeat_n(name, n.parse().unwrap())
    };
    types.split(' ').flat_map(one).collect()
}

#[test]
fn every_tensor_gets_the_type_that_llama_quantize_gave_it() {
    let cases = Cases::new();
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in GOLDEN.lines().filter_map(|line| line.strip_prefix("types ")) {
        let [model, file_type, types] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let found = cases.check(model, "full.gguf", FileType::from_name(file_type)).quantization.unwrap();
        let to: Vec<_> = found.tensors.iter().map(|target| target.to).collect();
        let is_right = if types == "stops" { found.refused && to.is_empty() } else { to == expanded(types) };
        if !is_right {
            wrong.push(format!("{line}\n  predicted {to:?}"));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(compared, CHECK_MODELS.len() * FileType::ALL.len());
}

#[test]
fn refusals_are_predicted_with_their_reason_and_tensor() {
    let cases = Cases::new();
    let (mut refused, mut accepted, mut wrong) = (0, 0, Vec::new());
    for line in GOLDEN.lines().filter_map(|line| line.strip_prefix("matrix ")) {
        let (case, types) = line.split_once(": ").unwrap();
        let [model, matrix, result] = case.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        for file_type in types.split(' ') {
            let found = cases.check(model, matrix, FileType::from_name(file_type));
            let quantization = found.quantization.unwrap();
            let first = quantization.refusals.first().map(|refusal| match (refusal.reason, &refusal.tensor) {
                // llama-quantize does not name the tensor.
                ("requantize", _) | (_, None) => format!("{} -", refusal.reason),
                (reason, Some(tensor)) => format!("{reason} {tensor}"),
            });
            if first.as_deref().unwrap_or("accepted") != result {
                wrong.push(format!("{model} {matrix} {file_type}: {result}, predicted {first:?}"));
            }
            if quantization.refused {
                assert_eq!(found.verdict, Verdict::Unusable, "{line}");
                refused += 1;
            } else {
                accepted += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > 300 && accepted > 300, "{refused} refused, {accepted} accepted");
}

#[test]
fn each_gap_in_a_matrix_has_its_finding() {
    let cases = Cases::new();
    let codes = |model: &str, matrix: &str| -> Vec<&'static str> {
        cases.check(model, matrix, None).findings.iter().map(|finding| finding.code).collect()
    };
    assert_eq!(codes("dense", "full.gguf"), ["missing-output", "missing-token-embd"]);
    assert_eq!(codes("dense", "with-output.gguf"), [""; 0]);
    for (model, matrix, code) in [
        ("dense", "no-layer-1.gguf", "missing-layer"),
        ("dense", "no-attn-v.gguf", "missing"),
        ("moe", "no-nextn.gguf", "missing-nextn"),
        ("moe", "no-attention.gguf", "few-rows"),
        ("moe", "unseen-experts.gguf", "unseen-experts"),
        ("moe", "unseen-experts.gguf", "few-tokens"),
        ("dense", "half-an-entry.gguf", "wrong-size"),
        ("dense", "not-finite.gguf", "not-finite"),
        ("dense", "not-finite-elsewhere.gguf", "extra"),
        ("dense", "all-zero.gguf", "all-zero"),
        ("dense", "other-names.gguf", "other-model"),
        ("dense", "legacy.dat", "legacy"),
        ("dense", "no-metadata.gguf", "no-metadata"),
    ] {
        let found = codes(model, matrix);
        assert!(found.contains(&code), "{model} {matrix}: no {code} in {found:?}");
    }
}

#[test]
fn unseen_experts_are_named_by_layer_and_count_as_parameters_without_data() {
    let cases = Cases::new();
    let found = cases.check("moe", "unseen-experts.gguf", None);
    assert_eq!(found.verdict, Verdict::Gaps);
    let layer = &found.experts[3];
    assert_eq!((layer.layer, layer.experts, layer.weights.len()), (3, 8, 3));
    assert_eq!((layer.unseen.as_slice(), layer.few[0].expert, layer.few[0].tokens), (&[1][..], 2, 7));
    let whole = cases.check("moe", "full.gguf", None).coverage;
    let experts = 8 * 3 + 1; // weights with experts, one expert each
    assert_eq!(found.coverage.parameters_without_data, whole.parameters_without_data + experts * 256 * 2);
}

#[test]
fn a_split_model_is_read_whole_and_its_damage_is_named() {
    use llama_imatrix::gguf::{self, Writer};
    let dir = tempfile::tempdir().unwrap();
    let model = CHECK_MODELS.iter().find(|model| model.name == "moe").unwrap();
    let bytes = model.bytes();
    let whole = gguf::File::from_bytes(&bytes).unwrap();
    let path = |index: usize| dir.path().join(format!("m-{index:05}-of-00003.gguf"));
    let n = whole.tensors().len();
    let tensors: Vec<_> = whole.tensors().collect();
    let write = |index: usize, announced: usize, tensors: &[gguf::Tensor<'_>]| {
        let mut writer = Writer::new();
        if index == 1 {
            for (key, value) in whole.keys() {
                writer.set(key, value.clone());
            }
            writer.set("split.tensors.count", announced as i32);
        }
        writer.set("split.no", index as u16 - 1).set("split.count", 3_u16);
        for tensor in tensors {
            writer.tensor(tensor.name, tensor.dtype, &tensor.shape, tensor.data.to_vec()).unwrap();
        }
        let mut out = Vec::new();
        writer.write_to(&mut out).unwrap();
        std::fs::write(path(index), out).unwrap();
    };
    let parts = [&tensors[..9], &tensors[9..40], &tensors[40..]];
    parts.iter().enumerate().for_each(|(i, part)| write(i + 1, n, part));
    let split = Model::open(path(1)).unwrap();
    let names = |model: &Model| model.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    std::fs::write(dir.path().join("whole.gguf"), &bytes).unwrap();
    let one = Model::open(dir.path().join("whole.gguf")).unwrap();
    assert_eq!((split.files.len(), &split.hparams, names(&split)), (3, &one.hparams, names(&one)));

    write(1, n + 1, parts[0]);
    let count = Model::open(path(1)).unwrap_err().to_string();
    assert!(count.contains("split.tensors.count"), "{count}");
    write(1, n, parts[0]);
    write(3, n, parts[1]);
    let twice = Model::open(path(1)).unwrap_err().to_string();
    assert!(twice.contains("is also in an earlier file"), "{twice}");
    std::fs::remove_file(path(2)).unwrap();
    let missing = Model::open(path(1)).unwrap_err().to_string();
    assert!(missing.contains("m-00002-of-00003.gguf"), "{missing}");
}
