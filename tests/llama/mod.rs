//! The layer over llama.cpp, on a real model.

mod nextn;

use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_imatrix::llama::{
    Batch, Context, ContextOptions, Error, FlashAttention, Model, ModelOptions, Observer, ObserverError, Op, Outputs,
    TensorRef, Tuning,
};

use crate::support;

const N_TOKENS: usize = 32;

fn with_model<T>(test: impl FnOnce(&Model) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("llama.gguf");
    std::fs::write(&path, support::build("llama")).unwrap();
    test(&Model::load(&path, &ModelOptions::default()).unwrap())
}

fn context<O: Observer>(model: &Model, observer: O) -> Context<'_, O> {
    context_with(model, Outputs::All, observer)
}

fn context_with<O: Observer>(model: &Model, outputs: Outputs, observer: O) -> Context<'_, O> {
    let options = ContextOptions {
        n_ctx: 64,
        n_batch: 64,
        n_ubatch: 64,
        n_seq: 1,
        n_threads: 1,
        n_threads_batch: 1,
        flash_attention: FlashAttention::Auto,
        tuning: Tuning::default(),
        outputs,
    };
    Context::new(model, &options, observer).unwrap()
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
    fn asks(&mut self, node: TensorRef<'_>) -> bool {
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
        let logits = context.logits(N_TOKENS).unwrap().to_vec();
        assert_eq!(logits.len(), N_TOKENS * model.vocab().n_tokens());
        assert!(logits.iter().all(|logit| logit.is_finite()));
        let seen = context.into_observer().seen;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].len() % N_TOKENS, 0);
        assert!(seen[0].iter().any(|&x| x != 0.0));

        // Watching changes nothing.
        let mut plain = self::context(model, ());
        plain.decode(&mut batch()).unwrap();
        assert_eq!(plain.logits(N_TOKENS).unwrap(), logits);
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
fn an_observers_panic_goes_on_where_the_decode_was_called() {
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
                assert_eq!(context.logits(N_TOKENS).is_none(), outputs == Outputs::Nothing);
            }
            context.into_observer().seen
        };
        assert_eq!(seen(Outputs::All), seen(Outputs::Nothing));
    });
}

/// Counts the rows that go through the output matrix.
struct HeadRows(Vec<i64>);

impl Observer for HeadRows {
    fn asks(&mut self, node: TensorRef<'_>) -> bool {
        if node.src(0).is_some_and(|weight| weight.name() == "output.weight") {
            self.0.push(node.ne()[1]);
        }
        false
    }

    fn sees(&mut self, _: TensorRef<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

#[test]
fn without_logits_the_output_matrix_is_not_even_announced() {
    with_model(|model| {
        let rows = |outputs| {
            let mut context = context_with(model, outputs, HeadRows(Vec::new()));
            context.decode(&mut batch()).unwrap();
            context.into_observer().0
        };
        assert_eq!(rows(Outputs::All), [N_TOKENS as i64]);
        assert_eq!(rows(Outputs::Nothing), [] as [i64; 0]);
    });
}
