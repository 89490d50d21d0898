//! States with sampled rows of experts.

use super::*;
use crate::shown::{RowSample, SampledLayer};

fn with_sample(tokens: &[(u64, u64)]) -> State<'static> {
    let layer = |weight: &str, width| SampledLayer { weight: weight.to_owned(), width };
    let mut sample = RowSample::new(vec![layer("blk.0.ffn_up_exps.weight", 2), layer("blk.1.ffn_up_exps.weight", 1)]);
    for &(chunk, position) in tokens {
        sample.offer(chunk, position, &[chunk as f32, -0.0, 1e-30]);
    }
    State { sample: Some(sample), ..state(0..4, Shard::WHOLE) }
}

#[test]
fn a_sample_is_read_as_written() {
    for tokens in [&[][..], &[(0, 5)], &[(3, 1), (0, 0), (0, 1)]] {
        let state = with_sample(tokens);
        let read = State::load_from(&bytes(&state)).unwrap();
        assert_eq!(read, state);
        assert_eq!(bytes(&read), bytes(&state));
        assert_eq!(read.sample.unwrap().len(), tokens.len());
    }
}

#[test]
fn samples_that_break_a_rule_are_refused() {
    let refused = |state: State<'_>| state.write(std::io::sink()).unwrap_err().to_string();
    assert!(refused(with_sample(&[(4, 0)])).contains("a chunk that is not done"));
    let mut state = with_sample(&[]);
    state.sample.as_mut().unwrap().offer(0, 0, &[f32::NAN, 0.0, 0.0]);
    assert!(refused(state).contains("not finite"));

    let whole = bytes(&with_sample(&[(0, 1), (1, 1)]));
    let rewritten = |tokens: Vec<i64>, width: u64| {
        let file = gguf::File::from_bytes(&whole[..]).unwrap();
        let mut writer = gguf::Writer::new();
        for (key, value) in file.keys() {
            let widths = || gguf::Value::Array(gguf::Array::U64(vec![width, 1]));
            writer.set(key, if key == "sample.widths" { widths() } else { value.clone() });
        }
        for tensor in file.tensors() {
            if tensor.name == "sample.tokens" {
                writer.i64_tensor(tensor.name, &[2, tokens.len() as u64 / 2], tokens.clone()).unwrap();
            } else {
                writer.tensor(tensor.name, tensor.dtype, &tensor.shape, tensor.data.to_vec()).unwrap();
            }
        }
        let mut out = Vec::new();
        writer.write_to(&mut out).unwrap();
        reseal(&mut out);
        State::load_from(&out).map(drop).map_err(|error| error.to_string())
    };
    rewritten(vec![0, 1, 1, 1], 2).unwrap();
    for (tokens, width, says) in [
        (vec![0, 1, 0, 1], 2, "twice"),
        (vec![0, 1, -1, 1], 2, "not negative"),
        (vec![0, 1], 2, "a row per token"),
        (vec![0, 1, 1, 1], 3, "a row per token"),
        (vec![0, 1, 1, 1], u64::MAX, "have no sum above 0"),
        (vec![0, 1, 9, 1], 2, "a chunk that is not done"),
    ] {
        let error = rewritten(tokens, width).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
