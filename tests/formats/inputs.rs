//! The imatrix files that the golden tests start from, made anew each time: no input is committed.

use std::path::Path;

use llama_imatrix::gguf::Writer;

/// A file's name and bytes.
pub(super) type Input = (&'static str, Vec<u8>);

/// Numbers in [0, 1) that are the same everywhere (Knuth's MMIX generator).
pub(super) struct Lcg(pub(super) u64);

impl Lcg {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 7) as f32 / (1 << 24) as f32
    }
}

/// A GGUF imatrix being put together.
struct Builder {
    writer: Writer<'static>,
    lcg: Lcg,
}

impl Builder {
    fn new(seed: u64) -> Self {
        let mut writer = Writer::new();
        writer.set("general.type", "imatrix");
        Self { writer, lcg: Lcg(seed) }
    }

    fn metadata(mut self, datasets: &[&str], chunk_count: u32, chunk_size: u32) -> Self {
        self.writer.set("imatrix.datasets", datasets);
        self.writer.set("imatrix.chunk_count", chunk_count).set("imatrix.chunk_size", chunk_size);
        self
    }

    fn set(mut self, key: &str, value: u32) -> Self {
        self.writer.set(key, value);
        self
    }

    /// An entry with these numbers; one count, or one a matrix.
    fn raw(mut self, name: &str, sum2: Vec<f32>, sum: Option<Vec<f32>>, counts: &[f32]) -> Self {
        let row = (sum2.len() / counts.len()) as u64;
        let matrices = counts.len() as u64;
        let w = &mut self.writer;
        w.f32_tensor(format!("{name}.in_sum2"), &[row, matrices], sum2).unwrap();
        w.f32_tensor(format!("{name}.counts"), &[1, matrices], counts.to_vec()).unwrap();
        if let Some(sum) = sum {
            w.f32_tensor(format!("{name}.in_sum"), &[row, matrices], sum).unwrap();
        }
        self
    }

    /// An entry with random activations, `row` columns a matrix; `matrices` share `counts`.
    fn random(mut self, name: &str, row: usize, matrices: usize, counts: &[f32], with_sum: bool) -> Self {
        let (mut sum2, mut sum) = (Vec::new(), Vec::new());
        for i in 0..row * matrices {
            let count = counts[i / row * counts.len() / matrices];
            let average = (self.lcg.unit() - 0.4) * 3.0;
            sum.push(average * count);
            sum2.push((average * average + self.lcg.unit()) * count);
        }
        self.raw(name, sum2, with_sum.then_some(sum), counts)
    }

    fn bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        self.writer.write_to(&mut out).unwrap();
        out
    }
}

/// A legacy file: entries with calls and values, then chunks and dataset.
fn dat(entries: &[(&str, i32, Vec<f32>)], end: Option<(i32, &str)>) -> Vec<u8> {
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as i32).to_le_bytes());
        out.extend(s.as_bytes());
    };
    for (name, calls, values) in entries {
        text(&mut out, name);
        out.extend(calls.to_le_bytes());
        out.extend((values.len() as i32).to_le_bytes());
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    if let Some((chunks, dataset)) = end {
        out.extend(chunks.to_le_bytes());
        text(&mut out, dataset);
    }
    out
}

fn dense(seed: u64, layers: &[usize], chunk_size: u32, with_sum: bool) -> Builder {
    let mut b = Builder::new(seed).metadata(&["wiki.train.raw", "code.txt"], 3, chunk_size);
    for layer in layers {
        let count = [1536.0];
        b = b.random(&format!("blk.{layer}.attn_q.weight"), 24, 1, &count, with_sum);
        b = b.random(&format!("blk.{layer}.ffn_down.weight"), 40, 1, &count, with_sum);
    }
    b.random("output.weight", 24, 1, &[1536.0], with_sum)
}

fn legacy_entries(seed: u64) -> Vec<(&'static str, i32, Vec<f32>)> {
    let mut lcg = Lcg(seed);
    let names = ["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight"];
    names.into_iter().map(|name| (name, 3, (0..24).map(|_| lcg.unit() * 5.0).collect())).collect()
}

/// Routed experts, one of them dead, and a 3-D weight with a single count.
fn routed(seed: u64, counts: [&[f32]; 3]) -> Vec<u8> {
    let mut b = Builder::new(seed).metadata(&["moe.txt"], 2, 512);
    for (layer, counts) in counts.into_iter().enumerate() {
        b = b.random(&format!("blk.{layer}.ffn_down_exps.weight"), 12, 4, counts, true);
        b = b.random(&format!("blk.{layer}.attn_k_b.weight"), 6, 4, &[1024.0], true);
    }
    b.bytes()
}

/// Numbers that statistics stumble over: none finite, all equal, none at all, sums that overflow.
fn odd_numbers() -> Vec<u8> {
    let mut b = Builder::new(7).metadata(&[], 1, 512);
    let c = [512.0];
    let column = |x: f32| vec![x; 8];
    for (name, sum2, sum) in [
        ("nan", column(f32::NAN), column(1.0)),
        ("some", [vec![f32::NAN, f32::INFINITY], vec![3.0; 6]].concat(), [vec![1.0; 6], vec![f32::NAN, 2.0]].concat()),
        ("zero", column(0.0), column(0.0)),
        ("same", column(5.0), column(2.0)),
        (
            "huge",
            vec![f32::MAX, 1.0, 2.0, f32::MAX, 0.0, 0.0, 1.0, 2.0],
            (0..8).map(|i| 3e38 * (i % 3 - 1) as f32).collect(),
        ),
        ("negative", column(-4.0), (0..8).map(|i| i as f32 - 3.5).collect()),
        ("tiny", column(1e-40), column(-1e-42)),
        ("one", vec![4.0], vec![1.0]),
    ] {
        let offset = |v: &[f32], d: f32| v.iter().map(|x| x + d).collect::<Vec<_>>();
        b = b.raw(&format!("blk.0.{name}.weight"), sum2.clone(), Some(sum.clone()), &c);
        b = b.raw(&format!("blk.1.{name}.weight"), sum2.clone(), Some(offset(&sum, 1.0)), &c);
        b = b.raw(&format!("blk.2.{name}.weight"), column(1.0)[..sum2.len()].to_vec(), Some(sum.clone()), &c);
        b = b.raw(&format!("blk.3.{name}.weight"), sum2, Some(column(0.0)[..sum.len()].to_vec()), &[1e-3]);
    }
    // Third moments that cancel to nothing but rounding: shows every change of their order.
    let mirror = [0.1, 0.7, -2.9, 1.3, -0.7, 2.9, -1.3, -0.1];
    b = b.raw("blk.0.mirror.weight", mirror.map(|x| x * x).to_vec(), Some(mirror.to_vec()), &[3.0]);
    // A gain that is the root of a negative number.
    b = b.raw("blk.0.sign.weight", column(1.0), Some(column(1.0)), &c);
    b = b.raw("blk.1.sign.weight", column(-1.0), Some(column(1.0)), &c);
    b.raw("blk.1.unseen.weight", column(0.0), Some(column(0.0)), &[0.0]).bytes()
}

fn nextn() -> Builder {
    let mut b = Builder::new(21).metadata(&["x"], 2, 256);
    for layer in 0..5 {
        b = b.random(&format!("blk.{layer}.attn_q.weight"), 10, 1, &[512.0], true);
    }
    for layer in 3..5 {
        b = b.random(&format!("blk.{layer}.nextn.eh_proj.weight"), 20, 1, &[512.0], true);
    }
    b.random("nextn.pre_projection.weight", 10, 1, &[512.0], true)
}

/// All input files.
pub(super) fn all() -> Vec<Input> {
    let alive: &[f32] = &[300.0, 12.0, 700.0, 1036.0];
    let mixed = dense(5, &[0, 1], 512, true).random("blk.1.ssm_in.weight", 16, 1, &[512.0], false);
    let odd_names = Builder::new(9)
        .random("blk.0.a_rather_long_name_for_a_weight_cut.weight", 4, 1, &[9.0], true)
        .random("blk.2.a_rather_long_name_for_a_weight_cut.weight", 4, 1, &[9.0], true)
        .random("token_embd.weight", 4, 1, &[9.0], true)
        .random("blk.3x.odd.weight", 4, 1, &[9.0], true)
        .random("blk.1.output.weight", 4, 1, &[9.0], true)
        .random("v.blk.1.ln.weight", 4, 1, &[9.0], true)
        .random("noweight", 4, 1, &[9.0], true);
    vec![
        ("dense.gguf", dense(1, &[0, 1, 2, 10], 512, true).bytes()),
        ("dense-whole.gguf", dense(11, &[0, 1, 2], 512, true).bytes()),
        ("dense-256.gguf", dense(2, &[0, 1, 2], 256, true).bytes()),
        ("dense-nosum.gguf", dense(3, &[0, 1, 2], 512, false).bytes()),
        ("mixed.gguf", mixed.bytes()),
        ("routed.gguf", routed(4, [&[512.0, 0.0, 1000.0, 536.0], alive, &[0.0, 0.0, 2048.0, 0.0]])),
        ("routed-one.gguf", routed(6, [&[100.0], &[1.0], &[2048.0]])),
        ("routed-again.gguf", routed(8, [alive, alive, alive])),
        ("numbers.gguf", odd_numbers()),
        ("names.gguf", odd_names.bytes()),
        ("nextn.gguf", nextn().bytes()),
        ("nextn-counted.gguf", nextn().set("imatrix.n_layer_nextn", 1).bytes()),
        ("bare.gguf", Builder::new(31).random("blk.0.attn_q.weight", 8, 1, &[1500.4], true).bytes()),
        ("legacy.dat", dat(&legacy_entries(41), Some((3, "old wiki.txt")))),
        (
            "legacy-long.dat",
            // 57 bytes: no room for all of ".in_sum2" and ".counts" in ggml's 63.
            dat(&[("blk.0.a_name_that_leaves_too_little_room_for_a_sfx.weight", 2, vec![1.5; 4])], Some((2, ""))),
        ),
        ("legacy-bare.dat", dat(&legacy_entries(43), None)),
    ]
}

/// Also for `tests/data/formats/make.sh`, which runs this with a folder in `FORMATS_INPUTS` and goes on from the files.
#[test]
fn generated_inputs_are_deterministic() {
    let first: Vec<Input> = all();
    assert!(first == all());
    if let Some(folder) = std::env::var_os("FORMATS_INPUTS") {
        for (name, bytes) in first {
            std::fs::write(Path::new(&folder).join(name), bytes).unwrap();
        }
    }
}
