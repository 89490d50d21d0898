//! The layer over llama.cpp, on a real model.

mod attachment;
mod lens;
mod nextn;
mod products;
mod session;
mod shown;
mod sound;
mod tensors;
mod vocab;

use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_imatrix::llama::{
    Batch, Context, ContextOptions, Error, Model, ModelOptions, Observer, ObserverError, Op, Outputs, TensorInfo,
    TensorRef,
};

use crate::support;

const N_TOKENS: usize = 32;

fn with_model<T>(test: impl FnOnce(&Model) -> T) -> T {
    with_built("llama", test)
}

fn with_built<T>(name: &str, test: impl FnOnce(&Model) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, support::build(name)).unwrap();
    test(&Model::load(&path, &ModelOptions::default()).unwrap())
}

fn context<O: Observer>(model: &Model, observer: O) -> Context<'_, O> {
    context_with(model, Outputs::All, observer)
}

fn context_with<O: Observer>(model: &Model, outputs: Outputs, observer: O) -> Context<'_, O> {
    Context::new(model, &options(outputs), observer).unwrap()
}

fn options(outputs: Outputs) -> ContextOptions {
    ContextOptions::new(64, outputs)
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    (0..N_TOKENS as i32).for_each(|i| batch.add(3 + i % 50, i, 0));
    batch
}

/// Sees the input of one weight, and does what it is told at its `fails_at`-th sight.
struct Watch {
    weight: &'static str,
    seen: Vec<Vec<f32>>,
    asked_after_fault: usize,
    fault: Option<fn() -> Result<(), ObserverError>>,
    faulted: bool,
}

impl Watch {
    fn new(weight: &'static str, fault: Option<fn() -> Result<(), ObserverError>>) -> Self {
        Self { weight, seen: Vec::new(), asked_after_fault: 0, fault, faulted: false }
    }
}

impl Observer for Watch {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        self.asked_after_fault += usize::from(self.faulted);
        node.op() == Op::MulMat && node.src(0).is_some_and(|weight| weight.name() == self.weight)
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        let input = node.src(1).unwrap();
        assert_eq!(input.ne()[1], N_TOKENS as i64);
        let mut copy = Vec::new();
        assert!(input.copy_f32(&mut copy));
        assert_eq!(input.as_f32().unwrap(), copy, "in place and copied");
        assert!(!input.copy_i32(&mut Vec::new()), "f32 is not i32");
        self.seen.push(copy);
        if let Some(fault) = self.fault.take() {
            self.faulted = true;
            fault()?;
        }
        Ok(())
    }
}

#[test]
fn an_observer_sees_what_it_asks_for() {
    with_model(|model| {
        let mut context = context(model, Watch::new("blk.0.attn_q.weight", None));
        context.decode(&mut batch()).unwrap();
        let logits = context.logits().unwrap().to_vec();
        assert_eq!(logits.len(), N_TOKENS * model.vocab().n_tokens());
        assert!(logits.iter().all(|logit| logit.is_finite()));
        let seen = context.into_observer().seen;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].len() % N_TOKENS, 0);
        assert!(seen[0].iter().any(|&x| x != 0.0));

        // Watching changes nothing.
        let mut plain = self::context(model, ());
        plain.decode(&mut batch()).unwrap();
        assert_eq!(plain.logits().unwrap(), logits);
    });
}

#[test]
fn an_observers_error_comes_out_of_the_decode() {
    with_model(|model| {
        let mut context = context(model, Watch::new("blk.1.ffn_up.weight", Some(|| Err("enough".into()))));
        let error = context.decode(&mut batch()).unwrap_err();
        let Error::Observer(inner) = &error else { panic!("{error}") };
        assert_eq!(inner.to_string(), "enough");
        assert_eq!(context.observer().asked_after_fault, 0, "nothing is asked once an error is latched");

        // The context is as good as new.
        context.clear_memory();
        context.decode(&mut batch()).unwrap();
        assert_eq!(context.observer().seen.len(), 2);
        assert_eq!(context.observer().seen[0], context.observer().seen[1]);
    });
}

#[test]
fn an_observers_panic_is_resumed_after_the_decode() {
    with_model(|model| {
        let mut context = context(model, Watch::new("blk.1.ffn_up.weight", Some(|| panic!("in the callback"))));
        let payload = catch_unwind(AssertUnwindSafe(|| context.decode(&mut batch()))).unwrap_err();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the callback"));
        assert_eq!(context.observer().asked_after_fault, 0);
        context.clear_memory();
        context.decode(&mut batch()).unwrap();
    });
}

#[test]
fn a_batch_larger_than_the_context_takes_is_refused() {
    with_model(|model| {
        let mut context = context(model, ());
        let mut batch = Batch::new();
        (0..65).for_each(|i| batch.add(3, i, 0));
        assert!(matches!(context.decode(&mut batch), Err(Error::BatchTooLarge { found: 65, limit: 64 })));
    });
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error_with_llama_cpps_reason() {
    with_model(|model| {
        let mut context = context(model, ());
        let mut batch = Batch::new();
        batch.add(1_000_000, 0, 0);
        let Err(Error::Decode { reason, .. }) = context.decode(&mut batch) else { panic!() };
        assert!(reason.contains("token"), "{reason}");
    });
}

#[test]
fn text_becomes_tokens_with_a_bos_in_front() {
    with_model(|model| {
        let vocab = model.vocab();
        let tokens = vocab.tokenize("the sea".as_bytes(), false).unwrap();
        assert_eq!(Some(tokens[0]), vocab.leading_bos());
        assert!(tokens.len() > 1 && tokens.iter().all(|&token| (token as usize) < vocab.n_tokens()));
        assert_eq!(vocab.tokenize(b"", false).unwrap(), [tokens[0]]);
        let pieces: Vec<u8> = tokens.iter().flat_map(|&token| vocab.piece(token)).collect();
        assert_eq!(pieces.trim_ascii_start(), b"the sea", "and back, the control token for nothing");
        assert!(vocab.piece(-1).is_empty() && vocab.piece(vocab.n_tokens() as i32).is_empty());
        let ends = (0..vocab.n_tokens() as i32).filter(|&token| vocab.is_end(token)).count();
        assert!((1..10).contains(&ends) && !vocab.is_end(tokens[1]) && !vocab.is_end(-1));
        // Bytes that are no UTF-8 are text too.
        assert!(vocab.tokenize(&[0xff, 0xfe, b'a'], false).unwrap().len() > 1);
    });
}

/// Without logits the layers are what they are with them, decode after decode.
#[test]
fn logits_nobody_reads_are_not_computed_and_change_nothing() {
    with_model(|model| {
        let seen = |outputs| {
            let mut context = context_with(model, outputs, Watch::new("blk.2.ffn_down.weight", None));
            for _ in 0..3 {
                context.clear_memory();
                context.decode(&mut batch()).unwrap();
                assert_eq!(context.logits().is_none(), outputs != Outputs::All);
            }
            context.into_observer().seen
        };
        assert_eq!(seen(Outputs::All), seen(Outputs::Nothing));
        assert_eq!(seen(Outputs::All), seen(Outputs::Scores));
    });
}

/// Looks at the output matrix's input, and counts nodes that come after.
struct Head {
    rows: Vec<i64>,
    after: usize,
}

impl Observer for Head {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        self.after += usize::from(!self.rows.is_empty());
        node.src(0).is_some_and(|weight| weight.name() == "output.weight")
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        assert_eq!(node.ne()[1], N_TOKENS as i64, "restored");
        self.rows.push(node.src(1).unwrap().ne()[1]);
        Ok(())
    }
}

#[test]
fn the_output_matrixs_input_is_seen_whole_whether_or_not_it_is_multiplied() {
    with_model(|model| {
        for outputs in [Outputs::All, Outputs::Scores, Outputs::Nothing] {
            let mut context = context_with(model, outputs, Head { rows: Vec::new(), after: 0 });
            for _ in 0..2 {
                context.clear_memory();
                context.decode(&mut batch()).unwrap();
            }
            assert_eq!(context.observer().rows, [N_TOKENS as i64; 2], "{outputs:?}");
        }
    });
}

/// Scores are those of llama.cpp's own logits, whatever follows the output matrix: nothing or a soft cap.
#[test]
fn scores_are_those_of_all_logits() {
    for (name, from_few) in [("llama", true), ("gemma2", true), ("qwen3moe", true), ("mamba", true), ("dream", false)] {
        with_built(name, |model| {
            let targets: Vec<_> = (0..N_TOKENS).map(|i| (i % 5 != 2).then_some((i * 7 % 50) as i32)).collect();
            let scores = |outputs| {
                let mut context = context_with(model, outputs, ());
                assert_eq!(context.computes_all_logits().is_none(), from_few || outputs == Outputs::All, "{name}");
                let mut all = Vec::new();
                for _ in 0..2 {
                    context.clear_memory();
                    all.push(context.score(&mut batch(), targets.clone()).unwrap().unwrap());
                }
                assert_eq!(all[0], all[1], "{name}");
                all.swap_remove(0)
            };
            let (want, found) = (scores(Outputs::All), scores(Outputs::Scores));
            assert_eq!(want.len(), targets.iter().flatten().count());
            for (want, found) in want.iter().zip(&found) {
                assert!((want - found).abs() < 1e-5 * want, "{name}: {found}, not {want}");
            }
        });
    }
}
