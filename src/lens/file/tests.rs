use super::*;

fn spread(x: f64) -> Spread {
    Spread { mean: x, p5: x, p25: x, p50: x, p75: x, p95: x }
}

fn point(kl: f64) -> LensPoint {
    LensPoint { kl: spread(kl), kl_reduction: f64::NAN, top1_agreement: 0.5, target_nll: 2.0 }
}

fn decomposition() -> Decomposition {
    let addition = Addition { mean: -1.0, mean_abs: 1.0, share: 0.5 };
    let part = |part, layer| PrismPart { part, layer, raw: addition, relative: addition };
    Decomposition {
        parts: vec![part(Part::Embedding, None), part(Part::Attention, Some(1))],
        layers: vec![PrismLayer { layer: 1, raw: addition, relative: addition }],
        sum_check: SumCheck { max_relative_error: 1e-6 },
    }
}

fn file() -> LensFile {
    LensFile {
        format: FORMAT.into(),
        version: VERSION,
        model: Model { name: "m".into(), architecture: "llama".into(), n_layer: 2 },
        dataset: "text".into(),
        positions: Positions { chunks: 1, run_chunks: None, chunk_size: 512, per_chunk: 32, sampled: 32, seed: 7 },
        lens: Some(Section::Measured(Lens {
            base: "model".into(),
            embedding: Some(point(3.0)),
            layers: vec![LensLayer { layer: 1, point: point(0.0), after_attention: Some(point(1.0)) }],
        })),
        prism: Some(Section::Measured(Prism { next_token: decomposition(), likeliest_token: Some(decomposition()) })),
        similarity: Some(Section::Unsupported { unsupported: "no residual stream".into() }),
    }
}

#[test]
fn numbers_are_read_to_the_nearest_double() {
    let text = serde_json::to_string(&file()).unwrap();
    let digits = "7.877777777777767777777777777778";
    let read =
        LensFile::parse(text.replace("\"target_nll\":2.0", &format!("\"target_nll\":{digits}")).as_bytes()).unwrap();
    let Some(Section::Measured(lens)) = &read.lens else { panic!("{read:?}") };
    assert_eq!(lens.layers[0].point.target_nll.to_bits(), digits.parse::<f64>().unwrap().to_bits());
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::to_string(&LensFile::parse(written.as_bytes()).unwrap()).unwrap(), written);
}

#[test]
fn files_round_trip_and_nan_is_null() {
    let dir = tempfile::tempdir().unwrap();
    let path = LensFile::beside(&dir.path().join("imatrix.gguf"));
    assert!(path.ends_with("imatrix.lens.json"));
    file().save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"kl_reduction\": null") && text.contains("\"unsupported\": \"no residual"), "{text}");
    let read = LensFile::load(&path).unwrap();
    let Some(Section::Measured(lens)) = &read.lens else { panic!("{read:?}") };
    assert!(lens.layers[0].point.kl_reduction.is_nan());
    assert_eq!((&read.prism, &read.similarity), (&file().prism, &file().similarity));
}

#[test]
fn each_broken_rule_has_its_error() {
    let broken = |change: fn(&mut LensFile)| {
        let mut file = file();
        change(&mut file);
        file.check().unwrap_err().to_string()
    };
    let says = [
        (broken(|f| f.version = 2), "version is 2"),
        (broken(|f| f.format = "x".into()), "format"),
        (broken(|f| f.model.n_layer = 0), "0 layers"),
        (broken(|f| f.model.n_layer = 1), "layer 1 of 'lens'"),
        (
            broken(|f| lens(f).layers.push(LensLayer { layer: 0, point: point(0.0), after_attention: None })),
            "layer 0 of 'lens'",
        ),
        (broken(|f| lens(f).layers[0].point.top1_agreement = 2.0), "top-1 agreement of 2"),
        (broken(|f| lens(f).layers[0].point.kl.p5 = 9.0), "at least the quantile before"),
        (broken(|f| lens(f).layers[0].point.kl = spread(-1.0)), "mean of -1"),
        (broken(|f| prism(f).next_token.parts[1].layer = None), "Attention"),
        (broken(|f| prism(f).next_token.parts[0].raw.share = 1.5), "share of 1.5"),
        (broken(|f| prism(f).next_token.layers[0].layer = 2), "layer 2 of 'prism'"),
        (broken(|f| prism(f).next_token.layers[0].raw.share = 1.5), "share of 1.5"),
        (broken(|f| likeliest(f).parts[0].raw.mean_abs = -1.0), "absolute value of -1"),
        (broken(|f| lens(f).layers[0].after_attention = Some(point(-1.0))), "mean of -1"),
    ];
    for (found, part) in says {
        assert!(found.contains(part), "'{found}' does not mention '{part}'");
    }
    let wrong = serde_json::to_string(&file()).unwrap().replace("\"mean_abs\"", "\"mean_ab\"");
    assert!(LensFile::parse(wrong.as_bytes()).unwrap_err().to_string().contains("mean_abs"));
    let says = |bytes: &[u8]| LensFile::parse(bytes).unwrap_err().to_string();
    assert!(says(b"{\"format\":\"llama-imatrix lens\",\"version\":9}").contains("version is 9, expected 1"));
    assert!(says(b"\x00").starts_with("not a lens file: expected value"));
}

fn lens(file: &mut LensFile) -> &mut Lens {
    let Some(Section::Measured(lens)) = &mut file.lens else { panic!() };
    lens
}

fn prism(file: &mut LensFile) -> &mut Prism {
    let Some(Section::Measured(prism)) = &mut file.prism else { panic!() };
    prism
}

fn likeliest(file: &mut LensFile) -> &mut Decomposition {
    prism(file).likeliest_token.as_mut().unwrap()
}

/// The example was written before the file had layers of the prism, its likeliest token, distances, and the stream after
/// the attention.
#[test]
fn files_of_earlier_versions_are_read() {
    let file = LensFile::parse(include_bytes!("../../../tests/data/report/first.lens.json")).unwrap();
    let Some(Section::Measured(prism)) = &file.prism else { panic!("{file:?}") };
    assert!(prism.next_token.layers.is_empty() && prism.likeliest_token.is_none());
    let Some(Section::Measured(similarity)) = &file.similarity else { panic!("{file:?}") };
    assert!(similarity.layers.iter().all(|layer| layer.distance.is_none()));
    let Some(Section::Measured(lens)) = &file.lens else { panic!("{file:?}") };
    assert!(lens.layers.iter().all(|layer| layer.after_attention.is_none()));
    let mut again = Vec::new();
    file.write(&mut again).unwrap();
    assert_eq!(format!("{:?}", LensFile::parse(&again).unwrap()), format!("{file:?}"));
}

#[test]
fn the_documented_example_is_read() {
    let bytes = include_bytes!("../../../tests/data/report/first.lens.json");
    let file = LensFile::parse(bytes).unwrap();
    let Some(Section::Measured(prism)) = &file.prism else { panic!("{file:?}") };
    assert!(prism.next_token.parts.iter().any(|p| p.part == Part::RoutedExperts && p.layer == Some(2)));
    let Some(Section::Measured(lens)) = &file.lens else { panic!("{file:?}") };
    assert!(lens.embedding.as_ref().is_some_and(|e| e.kl_reduction.is_nan()) && lens.layers.len() == 3);
}
