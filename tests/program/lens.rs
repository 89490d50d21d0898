//! `--logit-lens`, `--logit-prism`, `--layer-similarity`, and `--stop-when-covered`.

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::lens::file::{Decomposition, Lens, LensFile, LensLayer, Part, Prism, Section, Similarity};
use llama_imatrix::llama::{Batch, Context, ContextOptions, Model, ModelOptions, Outputs, Token};

use super::*;

const ALL: &str = "--logit-lens --logit-prism --layer-similarity";

fn load(bench: &Bench, name: &str) -> LensFile {
    LensFile::load(&bench.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn measured<T>(section: Option<&Section<T>>) -> &T {
    match section {
        Some(Section::Measured(measured)) => measured,
        Some(Section::Unsupported { unsupported }) => panic!("{unsupported}"),
        None => panic!("not there"),
    }
}

fn parts(file: &LensFile) -> (&Lens, &Prism, &Similarity) {
    (measured(file.lens.as_ref()), measured(file.prism.as_ref()), measured(file.similarity.as_ref()))
}

/// Every architecture: the matrix's bytes do not change, the last layer is the model, the parts are the logit.
#[test]
fn every_architecture_is_measured_and_its_matrix_keeps_its_bytes() {
    for model in support::MODELS {
        let bench = Bench::new(&[model.name]);
        let run = format!("-m {}.gguf -f calibration.txt -c 64 -b 128 --chunks 6", model.name);
        bench.ok(&format!("{run} -o plain.gguf"));
        let ran = bench.ok(&format!("{run} {ALL} --lens-tokens 8"));
        assert!(bench.read("imatrix.gguf") == bench.read("plain.gguf"), "{}", model.name);
        assert!(!bench.path("plain.lens.json").exists());

        let file = load(&bench, "imatrix.lens.json");
        let n_layer = file.model.n_layer as usize;
        assert_eq!(file.model.architecture, model.name);
        assert_eq!((file.positions.chunks, file.positions.run_chunks, file.positions.sampled), (6, Some(6), 48));
        let (lens, prism, similarity) = parts(&file);
        let name = model.name;
        assert_eq!((lens.layers.len(), similarity.layers.len()), (n_layer, n_layer), "{name}");
        let last = &lens.layers[n_layer - 1].point;
        assert!(last.kl.mean.abs() < 1e-5 && last.kl.p95.abs() < 1e-5, "{name}: {:?}", last.kl);
        assert!(last.top1_agreement > 1.0 - 1e-9, "{name}");
        let kls: Vec<f64> =
            lens.embedding.iter().chain(lens.layers.iter().map(|l| &l.point)).map(|p| p.kl.mean).collect();
        assert!(kls[..n_layer].iter().all(|&kl| kl > 1e-3), "{name}: {kls:?}");
        for (point, pair) in lens.layers.iter().zip(kls.windows(2)) {
            assert!((point.point.kl_reduction - (pair[0] - pair[1])).abs() < 1e-9);
        }

        let error = prism.next_token.sum_check.max_relative_error;
        assert!(error < 1e-3, "{name}: the parts' sum is off by {error}");
        // The mean of the sum is the sum of the means, and shares are of one whole.
        let counted: Vec<_> = prism.next_token.parts.iter().filter(|part| !part.part.is_detail()).collect();
        assert!((counted.iter().map(|part| part.raw.share).sum::<f64>() - 1.0).abs() < 1e-9, "{name}");
        assert!(counted.len() > n_layer && counted[0].part == Part::Embedding, "{name}");
        for layer in &similarity.layers {
            assert!(layer.whole.mean < 0.999 && layer.attention.is_some(), "{name}: {layer:?}");
            assert_eq!(layer.feed_forward.is_none(), name == "mamba");
        }
        for says in
            ["Logit lens (48 positions of 6 chunks)", "Mean KL of the last layer: ", "error of the parts' sum: "]
        {
            assert!(ran.stdout.contains(says), "{name}: {}", ran.stdout);
        }
    }
}

#[test]
fn shared_and_routed_experts_are_separate_and_add_up() {
    let bench = Bench::new(&["deepseek2", "qwen2", "gpt2"]);
    let file_of = |model: &str| {
        bench.ok(&format!("-m {model}.gguf -f calibration.txt -c 64 -b 64 --chunks 2 --logit-prism"));
        load(&bench, "imatrix.lens.json")
    };
    let file = file_of("deepseek2");
    let prism = measured(file.prism.as_ref());
    let mean =
        |part, layer| prism.next_token.parts.iter().find(|p| (p.part, p.layer) == (part, layer)).map(|p| p.raw.mean);
    for layer in [1, 2] {
        let [whole, shared, routed] =
            [Part::FeedForward, Part::SharedExperts, Part::RoutedExperts].map(|part| mean(part, Some(layer)));
        assert!((whole.unwrap() - shared.unwrap() - routed.unwrap()).abs() < 1e-9, "layer {layer}");
    }
    assert_eq!(mean(Part::RoutedExperts, Some(0)), None, "the first layer is dense");
    assert!(file.lens.is_none() && file.similarity.is_none());

    let has = |file: &LensFile, part| measured(file.prism.as_ref()).next_token.parts.iter().any(|p| p.part == part);
    let quantized = file_of("qwen2");
    assert!(has(&quantized, Part::Rounding) && !has(&quantized, Part::NormBias), "its output matrix is of Q8_0");
    let biased = file_of("gpt2");
    assert!(has(&biased, Part::NormBias) && !has(&biased, Part::Rounding), "its final norm has a bias");
}

/// Attention and feed-forward network are told apart by the names of their weights, and by what reads what.
#[test]
fn parts_are_told_apart_in_parallel_blocks_and_with_activation_scales() {
    let bench = Bench::new(&["command-r", "mpt"]);
    for model in ["command-r", "mpt"] {
        bench.ok(&format!("-m {model}.gguf -f calibration.txt -c 64 -b 64 --chunks 2 {ALL}"));
        let file = load(&bench, "imatrix.lens.json");
        let (lens, prism, similarity) = parts(&file);
        let found: Vec<_> = prism.next_token.parts.iter().map(|p| (p.part, p.layer)).collect();
        let of_layer = |l| [(Part::Attention, Some(l)), (Part::FeedForward, Some(l))];
        let expected: Vec<_> = [(Part::Embedding, None)].into_iter().chain((0..2).flat_map(of_layer)).collect();
        assert_eq!(found, expected, "{model}");
        assert!(similarity.layers.iter().all(|l| l.attention.is_some() && l.feed_forward.is_some()), "{model}");
        let is_between = |l: &LensLayer| l.after_attention.is_some();
        assert!(
            lens.layers.iter().all(|l| is_between(l) == (model == "mpt")),
            "{model}: a parallel block has no between"
        );
    }
}

/// What the file says of a layer agrees with what it says of its parts.
#[test]
fn a_layer_and_the_likeliest_token_are_decomposed_too() {
    let bench = Bench::new(&["llama"]);
    let ran = bench.ok(&format!("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 3 {ALL}"));
    let file = load(&bench, "imatrix.lens.json");
    let (lens, prism, similarity) = parts(&file);
    let likeliest = prism.likeliest_token.as_ref().unwrap();
    for decomposition in [&prism.next_token, likeliest] {
        assert!(decomposition.sum_check.max_relative_error < 1e-3);
        assert_eq!(decomposition.layers.len(), 3);
        for layer in &decomposition.layers {
            let of_layer = decomposition.parts.iter().filter(|p| p.layer == Some(layer.layer));
            let [mean, mean_abs] = of_layer.fold([0.0; 2], |[a, b], p| [a + p.raw.mean, b + p.raw.mean_abs]);
            assert!((layer.raw.mean - mean).abs() < 1e-9, "the mean of the sum is the sum of the means");
            assert!(layer.raw.mean_abs <= mean_abs + 1e-9 && layer.raw.mean_abs >= mean.abs() - 1e-9);
        }
    }
    // No token has a larger logit.
    let logit = |d: &Decomposition| d.parts.iter().filter(|p| !p.part.is_detail()).map(|p| p.raw.mean).sum::<f64>();
    assert!(logit(likeliest) > logit(&prism.next_token) + 0.1);
    for layer in &lens.layers {
        let within = layer.after_attention.as_ref().unwrap();
        let before = layer.point.kl.mean + layer.point.kl_reduction;
        assert!((before - within.kl_reduction - within.kl.mean).abs() < 1e-9, "{layer:?}");
    }
    assert!(similarity.layers.iter().all(|l| l.distance.unwrap().whole.mean > 0.01));
    for says in ["Logit prism of the model's likeliest token (", "whole layer", "Distance"] {
        assert!(ran.stdout.contains(says), "{says}: {}", ran.stdout);
    }
}

#[test]
fn an_unsupported_architecture_is_named_with_the_reason() {
    let bench = Bench::new(&["bert"]);
    let ran = bench.ok(&format!("-m bert.gguf -f calibration.txt -c 64 --chunks 2 {ALL}"));
    assert_eq!(ran.stdout.matches("not supported: bert: its graph has no product with an output matrix").count(), 3);
    let file = load(&bench, "imatrix.lens.json");
    assert!(matches!(&file.prism, Some(Section::Unsupported { unsupported }) if unsupported.starts_with("bert: ")));
    assert_eq!(file.positions.sampled, 0);
}

#[test]
fn results_depend_on_the_seed_but_not_on_lanes_or_micro_batches() {
    let bench = Bench::new(&["qwen3moe", "mamba"]);
    for model in ["qwen3moe", "mamba"] {
        let run = format!("-m {model}.gguf -f calibration.txt -c 64 --chunks 9 {ALL} --lens-tokens 5 --keep-tail");
        bench.ok(&format!("{run} -b 64 --lanes 1"));
        let first = bench.read("imatrix.lens.json");
        for lanes in [2, 3] {
            bench.ok(&format!("{run} -b 64 --lanes {lanes}"));
            assert!(bench.read("imatrix.lens.json") == first, "{model}, {lanes} lanes");
        }
        bench.ok(&format!("{run} -b 64 --lens-seed 8"));
        assert_ne!(bench.read("imatrix.lens.json"), first);
        // Micro-batches: the same positions, the numbers up to rounding.
        bench.ok(&format!("{run} -b 64 -ub 24"));
        let [a, b] = [LensFile::parse(&first).unwrap(), load(&bench, "imatrix.lens.json")];
        assert_eq!(a.positions, b.positions);
        let [a, b] = [&a, &b].map(parts);
        for (a, b) in a.0.layers.iter().zip(&b.0.layers) {
            assert!((a.point.target_nll - b.point.target_nll).abs() < 1e-3, "{model}: {a:?} {b:?}");
        }
        assert!(b.1.next_token.sum_check.max_relative_error < 1e-3);
    }
}

/// Logits in the layout of llama-perplexity --save-all-logits, from all logits that llama.cpp computes.
fn save_logits(bench: &Bench, model: &str, chunk_size: usize, n_chunks: usize) -> Vec<u8> {
    let model = Model::load(&bench.path(model), &ModelOptions::default()).unwrap();
    let text = bench.read("calibration.txt");
    let tokens: Vec<Token> = model.vocab().tokenize(text.strip_suffix(b"\n").unwrap_or(&text), false).unwrap();
    let n_vocab = model.vocab().n_tokens();
    let mut context = Context::new(&model, &ContextOptions::new(chunk_size as u32, Outputs::All), ()).unwrap();
    let mut out = b"_logits_".to_vec();
    for n in [chunk_size, n_vocab, n_chunks] {
        out.extend((n as i32).to_le_bytes());
    }
    for token in &tokens[..n_chunks * chunk_size] {
        out.extend(token.to_le_bytes());
    }
    for chunk in tokens.chunks_exact(chunk_size).take(n_chunks) {
        let mut batch = Batch::new();
        for (position, &token) in chunk.iter().enumerate() {
            let token = model.vocab().leading_bos().filter(|_| position == 0).unwrap_or(token);
            batch.add(token, position as i32, 0);
        }
        context.clear_memory();
        context.decode(&mut batch).unwrap();
        let logits = context.logits().unwrap();
        for row in logits.chunks_exact(n_vocab).take(chunk_size - 1).skip(chunk_size / 2) {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let min = row.iter().copied().fold(f32::MAX, f32::min).max(max - 16.0);
            let log_sum = row.iter().map(|&z| f64::from(z - max).exp()).sum::<f64>().ln() as f32;
            let scale = (max - min) / 65535.0;
            out.extend(scale.to_le_bytes());
            out.extend((min - max - log_sum).to_le_bytes());
            for z in row {
                out.extend((((z - min) / scale).round().max(0.0) as u16).to_le_bytes());
            }
            out.resize(out.len() + 2 * (n_vocab % 2), 0);
        }
    }
    out
}

#[test]
fn a_logits_file_replaces_the_models_distribution() {
    let bench = Bench::new(&["llama", "qwen2"]);
    bench.write("base", &save_logits(&bench, "llama.gguf", 64, 4));
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 128 --chunks 4 --logit-lens --lens-tokens 64";
    let ran = bench.ok(&format!("{run} --kl-divergence-base base"));
    let file = load(&bench, "imatrix.lens.json");
    let lens = measured(file.lens.as_ref());
    assert_eq!((lens.base.as_str(), file.positions.sampled), ("base", 4 * 31), "the positions that the file holds");
    let last = &lens.layers.last().unwrap().point;
    assert!(last.kl.mean.abs() < 1e-4 && last.top1_agreement > 0.99, "{last:?}: the file has 16 bits a number");
    // These positions are those of the perplexity.
    let (value, _) = estimate(&ran).strip_prefix("Final estimate: PPL = ").unwrap().split_once(' ').unwrap();
    assert!((last.target_nll - value.parse::<f64>().unwrap().ln()).abs() < 1e-6, "{value} {last:?}");
    // Against the model itself at these positions it is the same, to the file's precision.
    assert!(lens.layers[0].point.kl.mean > 0.1);

    // A file that holds fewer chunks, and a run that begins later in the text.
    let ran = bench.ok(&format!("{run} --chunks 6 --kl-divergence-base base"));
    assert!(ran.stderr.contains("'base' holds 4 of the 6 chunks"), "{}", ran.stderr);
    assert_eq!(load(&bench, "imatrix.lens.json").positions.chunks, 4);
    bench.ok(&format!("{run} --chunk 1 --chunks 3 --kl-divergence-base base"));
    let later = load(&bench, "imatrix.lens.json");
    assert!(measured(later.lens.as_ref()).layers.last().unwrap().point.kl.mean.abs() < 1e-4);
}

#[test]
fn a_logits_file_that_does_not_match_is_an_error_with_both_values() {
    let bench = Bench::new(&["llama", "qwen2"]);
    let base = save_logits(&bench, "llama.gguf", 64, 2);
    bench.write("base", &base);
    bench.write("short", &base[..base.len() - 2]);
    bench.write("text", b"no logits at all");
    let mut nan = base.clone();
    let row = base.len() - 62 * (base.len() - 20 - 4 * 128) / 62;
    nan[row..row + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    bench.write("nan", &nan);
    bench.write("other.txt", support::text(1500, 4).as_bytes());
    let n_vocab = i32::from_le_bytes(base[12..16].try_into().unwrap());
    let options = "-c 64 -b 64 --chunks 2 --lens-tokens 64 --logit-lens --kl-divergence-base";
    let run = format!("-f calibration.txt {options}");
    let vocabulary = format!("the logits file 'base' has {n_vocab} tokens in the vocabulary, this run ");
    for (args, says) in [
        (format!("-m qwen2.gguf {run} base"), vocabulary.as_str()),
        (format!("-m llama.gguf {run} base -c 32"), "has 64 tokens per chunk, this run 32"),
        (format!("-m llama.gguf -f other.txt {options} base"), "comes from another text: token "),
        (format!("-m llama.gguf {run} short"), "the logits file 'short' has "),
        (format!("-m llama.gguf {run} text"), "'text' is not a logits file of llama-perplexity --save-all-logits"),
        (format!("-m llama.gguf {run} missing"), "cannot read the logits file 'missing'"),
        (format!("-m llama.gguf {run} base --chunk 2"), "has 2 chunks, this run "),
    ] {
        bench.fails(&args, &[says]);
    }
    let ran = bench.run(&format!("-m llama.gguf {run} nan"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains("the logits file 'nan' is damaged: position 33 of chunk 1 has scale NaN"),
        "{}",
        ran.stderr
    );
}

#[test]
fn incompatible_flags_are_refused_before_the_run() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 --chunks 2";
    for (flags, says) in [
        ("--kl-divergence-base base", "--logit-lens"),
        ("--logit-lens --lens-tokens 0", "0 is below 1"),
        ("--logit-lens --lens-seed x", "expected a number from 0 on"),
        ("--stop-when-covered 0", "0 is below 1"),
        ("--stop-when-covered 5 --shard 0/2", "a shard does not know"),
        (
            "--logit-lens -b 640 -ub 4 --chunks 20",
            "micro-batches of 4 tokens are too small to look into the layers: they need a token of each of a batch's 10 chunks",
        ),
    ] {
        bench.fails(&format!("{run} {flags}"), &[says]);
    }
    std::fs::create_dir(bench.path("imatrix.lens.json")).unwrap();
    bench.fails(&format!("{run} --logit-lens"), &["cannot write 'imatrix.lens.json'"]);
    bench.ok(run);
}

#[test]
fn a_discarded_chunk_is_not_measured() {
    let bench = Bench::new(&["llama-nan-token", "llama-inf-layer"]);
    let run = "-m llama-nan-token.gguf -f calibration.txt -c 64 -b 64";
    let mut seen: Option<Vec<u8>> = None;
    for lanes in [1, 2] {
        let ran = bench.ok(&format!("{run} {ALL} --lens-tokens 4 --lanes {lanes}"));
        assert!(ran.stderr.contains("1 chunk discarded"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("chunks before --resume"), "{}", ran.stderr);
        let file = load(&bench, "imatrix.lens.json");
        assert!(parts(&file).0.layers.iter().all(|l| l.point.kl.mean.is_finite()));
        let bytes = bench.read("imatrix.lens.json");
        assert!(*seen.get_or_insert_with(|| bytes.clone()) == bytes);
    }
    // Nothing but bad chunks: an error, not a panic and no numbers.
    let ran = bench.run(&format!("-m llama-inf-layer.gguf -f calibration.txt -c 64 -b 64 --chunks 4 {ALL}"));
    assert_eq!(ran.code, Some(1));
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

/// A state has the measurements of its chunks.
#[test]
fn a_resumed_run_gives_the_lens_file_of_an_uninterrupted_one() {
    let bench = Bench::new(&["llama"]);
    // An error in the middle leaves a state.
    bench.write("llama-nan.gguf", &support::build("llama-nan-token"));
    let run = format!("-m llama-nan.gguf -f calibration.txt -c 64 -b 64 --lanes 1 {ALL}");
    bench.ok(&format!("{run} -o once.gguf"));
    let interrupted = |name: &str| {
        let broken = format!("{run} -o {name}.gguf --nan abort --state-frequency 1");
        assert_eq!(bench.run(&broken).code, Some(1));
        assert!(!bench.path(&format!("{name}.lens.json")).exists());
        format!("{run} -o {name}.gguf --state-frequency 1 --resume")
    };
    let ran = bench.ok(&interrupted("same"));
    assert!(!ran.stderr.contains("layers were measured in"), "{}", ran.stderr);
    assert!(bench.read("same.lens.json") == bench.read("once.lens.json"));
    // Measurements with other settings are not combined.
    let ran = bench.ok(&format!("{} --lens-seed 5", interrupted("other")));
    assert!(ran.stderr.contains("layers were measured in "), "{}", ran.stderr);
    let positions = load(&bench, "other.lens.json").positions;
    assert!(positions.chunks < positions.run_chunks.unwrap(), "{positions:?}");
}

#[test]
fn merging_shards_gives_the_lens_file_of_one_run() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 6 --accumulate f64 --lens-tokens 8";
    bench.ok(&format!("{run} {ALL} -o once.gguf"));
    for shard in 0..3 {
        bench.ok(&format!("{run} {ALL} --shard {shard}/3 -o {shard}.state"));
    }
    let merged = bench.ok("merge 2.state 0.state 1.state -o merged.gguf");
    assert!(merged.stderr.contains("saved the measurements of layers to 'merged.lens.json'"), "{}", merged.stderr);
    assert!(bench.read("merged.lens.json") == bench.read("once.lens.json"));
    assert!(bench.read("merged.gguf") == bench.read("once.gguf"));

    // A shard without measurements: the matrix is merged all the same.
    bench.ok(&format!("{run} --shard 1/3 -o without.state"));
    let merged = bench.ok("merge 0.state without.state 2.state -o part.gguf");
    assert!(merged.stderr.contains("layers were measured in 4 of 6 chunks"), "{}", merged.stderr);
    assert!(bench.read("part.gguf") == bench.read("once.gguf"));
    // A file that is no lens file is not replaced.
    bench.write("foreign.lens.json", b"mine");
    bench.fails("merge 0.state 1.state 2.state -o foreign.gguf", &["cannot write 'foreign.lens.json'"]);
    assert_eq!(bench.read("foreign.lens.json"), b"mine");
}

#[test]
fn stats_print_the_lens_file_beside_a_matrix() {
    let bench = Bench::new(&["llama"]);
    let run = "-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2";
    let ran = bench.ok(&format!("{run} {ALL}"));
    bench.ok(&format!("{run} --logit-prism -o prism.gguf"));
    bench.ok(&format!("{run} -o plain.gguf"));
    // The tables are those at the end of the run.
    let stats = bench.ok("stats imatrix.gguf").stdout;
    for title in ["Logit lens (", "Logit prism (", "Logit prism of the model's likeliest token (", "Layer similarity ("]
    {
        let table =
            |text: &str| text.split_once(title).map(|(_, rest)| rest.lines().take(6).collect::<Vec<_>>().join("\n"));
        assert!(table(&stats).is_some() && table(&stats) == table(&ran.stdout), "{title}: {stats}");
    }
    let csv = bench.ok("stats imatrix.gguf --by prism --format csv").stdout;
    assert!(csv.starts_with("file,token,layer,part,raw_mean,"), "{csv}");
    assert!(csv.contains("\nimatrix.gguf,next,") && csv.contains("\nimatrix.gguf,likeliest,"), "{csv}");
    assert!(bench.ok("stats imatrix.gguf --by similarity --format csv").stdout.contains(",distance,"));
    let json: serde_json::Value = serde_json::from_str(&bench.ok("stats imatrix.gguf --format json").stdout).unwrap();
    assert_eq!(json["files"][0]["lens"]["format"], "llama-imatrix lens");
    bench.fails("stats plain.gguf --by lens", &["'plain.gguf' has no lens file 'plain.lens.json'", "hint: "]);
    bench.fails("stats prism.gguf --by lens", &["'prism.lens.json' was written without --logit-lens"]);
    assert!(!bench.ok("stats plain.gguf").stdout.contains("Logit"));
    // Upstream's tables stay upstream's.
    let shown = |file: &str| bench.ok(&format!("--in-file {file} --show-statistics")).stdout.replace(file, "FILE");
    assert_eq!(shown("imatrix.gguf"), shown("plain.gguf"));
}

#[test]
fn the_report_draws_the_lens_file_of_a_run() {
    let bench = Bench::new(&["qwen3moe"]);
    bench.ok(&format!("-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 4 {ALL}"));
    bench.ok("report imatrix.gguf -o report.html --png pictures");
    let page = String::from_utf8(bench.read("report.html")).unwrap();
    assert!(page.contains("\"max_relative_error\":") && page.contains("\"base\":\"model\""));
    for picture in ["lens", "prism", "similarity"] {
        let names = std::fs::read_dir(bench.path("pictures")).unwrap();
        let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.any(|name| name.contains(picture)), "no picture of {picture}");
    }
}

#[test]
fn a_run_ends_once_every_expert_has_its_tokens() {
    let bench = Bench::new(&["deepseek2", "qwen3moe", "llama"]);
    let run = "-m deepseek2.gguf -f calibration.txt -c 64 -b 64";
    let ran = bench.ok(&format!("{run} --stop-when-covered 40 --lanes 2"));
    assert!(ran.stderr.contains("every expert has 40 tokens after chunks 1"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--lanes is ignored"), "{}", ran.stderr);
    let stopped = Imatrix::load(bench.path("imatrix.gguf")).unwrap();
    let least = |name: &str| {
        let imatrix = Imatrix::load(bench.path(name)).unwrap();
        let experts = imatrix.entries.values().filter(|entry| entry.counts.len() > 1);
        experts.flat_map(|entry| entry.counts.iter().copied()).min().unwrap()
    };
    assert!(least("imatrix.gguf") >= 40);
    assert!(!bench.path("imatrix.gguf.state").exists(), "it is complete");
    // Not a chunk too many, and the bytes of a run over those chunks.
    bench.ok(&format!("{run} --chunks {} -o same.gguf", stopped.chunk_count));
    assert!(bench.read("imatrix.gguf") == bench.read("same.gguf"));
    bench.ok(&format!("{run} --chunks {} -o less.gguf", stopped.chunk_count - 1));
    assert!(least("less.gguf") < 40);
    // Sums of before count.
    bench.ok(&format!("{run} --stop-when-covered 40 --in-file same.gguf -o more.gguf"));
    assert_eq!(Imatrix::load(bench.path("more.gguf")).unwrap().chunk_count, stopped.chunk_count + 1);

    let ran = bench.ok("-m qwen3moe.gguf -f calibration.txt -c 64 -b 64 --chunks 4 --stop-when-covered 1");
    assert!(
        ran.stderr.contains("the text ended before every expert had 1 tokens: the fewest are 0, "),
        "{}",
        ran.stderr
    );
    let ran = bench.ok("-m llama.gguf -f calibration.txt -c 64 -b 64 --chunks 2 --stop-when-covered 1");
    assert!(ran.stderr.contains("the model has no experts"), "{}", ran.stderr);
}

/// Documents of any length, several in a batch: each position is the one it is when its document is alone.
#[test]
fn documents_are_measured() {
    for model in ["llama", "mamba", "qwen3moe"] {
        let bench = Bench::new(&[model]);
        std::fs::create_dir(bench.path("docs")).unwrap();
        for (i, words) in [3, 40, 11, 90, 1, 25].into_iter().enumerate() {
            bench.write(&format!("docs/{i}.txt"), support::text(words, i as u64 + 1).as_bytes());
        }
        let run = format!("-m {model}.gguf -f docs --documents -c 64 {ALL} --lens-tokens 64");
        bench.ok(&format!("-m {model}.gguf -f docs --documents -c 64 -b 128 -ub 128 -o plain.gguf"));
        bench.ok(&format!("{run} -b 128 -ub 128"));
        assert!(bench.read("imatrix.gguf") == bench.read("plain.gguf"), "{model}");
        let together = load(&bench, "imatrix.lens.json");
        bench.ok(&format!("{run} -b 64 -ub 16 -o pieces.gguf"));
        let pieces = load(&bench, "pieces.lens.json");
        assert_eq!(together.positions, pieces.positions);
        let (together, pieces) = (parts(&together), parts(&pieces));
        for (a, b) in together.0.layers.iter().zip(&pieces.0.layers) {
            assert!((a.point.target_nll - b.point.target_nll).abs() < 2e-2, "{model}: {a:?} {b:?}");
        }
        for file in [together, pieces] {
            assert!(file.1.next_token.sum_check.max_relative_error < 1e-3, "{model}");
            assert!(file.0.layers.last().unwrap().point.kl.mean.abs() < 1e-5, "{model}");
        }
    }
    let bench = Bench::new(&["llama"]);
    bench.fails(
        "-m llama.gguf -f calibration.txt -c 64 --documents --logit-lens --kl-divergence-base base",
        &["cannot be combined with --documents or --shuffle"],
    );
}

/// The stream, the output matrix or both on another device: the numbers are the same, up to rounding.
#[test]
fn models_on_a_device_are_measured() {
    let Some(server) = rpc_server() else { return };
    let bench = Bench::new(&["llama", "gemma2"]);
    for model in ["llama", "gemma2"] {
        let run = format!("-m {model}.gguf -f calibration.txt -c 64 -b 64 --chunks 3 {ALL}");
        bench.ok(&run);
        let here = load(&bench, "imatrix.lens.json");
        let own_output = if model == "llama" { "-ot ^output=CPU --no-op-offload" } else { "-ngl 1" };
        for flags in ["", own_output] {
            let ran = bench.ok(&format!("{run} --rpc {server} -ngl 99 {flags} -o there.gguf"));
            assert!(!ran.stdout.contains("not supported"), "{model} {flags}: {}", ran.stdout);
            let there = load(&bench, "there.lens.json");
            let [(lens, prism, similarity), there] = [&here, &there].map(parts);
            for (a, b) in lens.layers.iter().zip(&there.0.layers) {
                assert!((a.point.kl.mean - b.point.kl.mean).abs() < 1e-3, "{model} {flags}: {a:?} {b:?}");
                assert!((a.point.target_nll - b.point.target_nll).abs() < 1e-3, "{model} {flags}: {a:?} {b:?}");
            }
            assert!(there.1.next_token.sum_check.max_relative_error < 1e-3, "{model} {flags}");
            assert_eq!(prism.next_token.parts.len(), there.1.next_token.parts.len());
            for (a, b) in similarity.layers.iter().zip(&there.2.layers) {
                assert!((a.whole.mean - b.whole.mean).abs() < 1e-3, "{model} {flags}: {a:?} {b:?}");
            }
        }
    }
}
