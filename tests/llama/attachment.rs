//! Observers in contexts made by hand.
#![allow(unsafe_code, reason = "raw bindings, as a user of them has")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_cpp_sys_2 as sys;
use llama_imatrix::collect::{Lane, Rule};
use llama_imatrix::llama::{Attachment, Backend, Error, Observer, ObserverError, TensorInfo, TensorRef};
use llama_imatrix::{Collector, CollectorOptions, Imatrix};

use super::{N_TOKENS, Watch, batch, context, with_model};
use crate::support;

/// llama.cpp by its C interface alone.
struct Raw {
    model: *mut sys::llama_model,
    context: *mut sys::llama_context,
}

impl Raw {
    /// A context that calls `attachment`, which is to outlive it.
    fn new<O: Observer + Send>(attachment: &Attachment<O>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, support::build("llama")).unwrap();
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let _ = Backend::init();
        // SAFETY: plain calls; the path outlives the one that reads it.
        unsafe {
            let model = sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
            let mut params = sys::llama_context_default_params();
            let callback = attachment.eval_callback();
            (params.cb_eval, params.cb_eval_user_data) = (Some(callback.function), callback.user_data);
            (params.n_ctx, params.n_batch, params.n_ubatch) = (64, 64, 64);
            (params.n_threads, params.n_threads_batch, params.swa_full) = (1, 1, false);
            let context = sys::llama_init_from_model(model, params);
            assert!(!context.is_null());
            Self { model, context }
        }
    }

    /// The first `n` tokens of the tests' batch, from an empty memory.
    fn decode(&self, n: usize) -> i32 {
        // SAFETY: the batch has room for the tokens, and is freed after its use.
        unsafe {
            let mut raw = sys::llama_batch_init(n as i32, 0, 1);
            raw.n_tokens = n as i32;
            for (i, (token, position)) in batch().tokens().take(n).enumerate() {
                *raw.token.add(i) = token;
                *raw.pos.add(i) = position;
                *raw.n_seq_id.add(i) = 1;
                *(*raw.seq_id.add(i)) = 0;
                *raw.logits.add(i) = 1;
            }
            sys::llama_memory_clear(sys::llama_get_memory(self.context), true);
            let status = sys::llama_decode(self.context, raw);
            sys::llama_synchronize(self.context);
            sys::llama_batch_free(raw);
            status
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: both are ours, and the context goes first.
        unsafe {
            sys::llama_free(self.context);
            sys::llama_model_free(self.model);
        }
    }
}

fn collector() -> Collector {
    let rule = Rule { min_rows: 1, process_output: true, ..Rule::default() };
    Collector::new(&CollectorOptions { rule, chunk_size: 32, ..CollectorOptions::default() })
}

/// The sums of three decodes of changing length, by our own context.
fn own(lengths: &[usize]) -> Imatrix {
    let collector = collector();
    with_model(|model| {
        let mut context = context(model, collector.lane());
        for &n in lengths {
            context.clear_memory();
            let mut part = llama_imatrix::llama::Batch::new();
            batch().tokens().take(n).for_each(|(token, position)| part.add(token, position, 0));
            context.decode(&mut part).unwrap();
        }
    });
    collector.finish().unwrap()
}

#[test]
fn a_foreign_context_gives_the_sums_of_our_own() {
    let lengths = [N_TOKENS, 1, 7, N_TOKENS, 1, 1];
    let collector = collector();
    let attachment = Attachment::new(collector.lane());
    let raw = Raw::new(&attachment);
    for n in lengths {
        assert_eq!(raw.decode(n), 0);
        attachment.finish_decode().unwrap();
    }
    let found = collector.finish().unwrap();
    assert_eq!(found, own(&lengths));
    let rows = lengths.iter().sum::<usize>() as i64;
    assert_eq!(found.get("blk.0.attn_q.weight").unwrap().counts, [rows]);
    assert_eq!((found.chunk_count, found.chunk_size), (2, 32));
    drop(raw);
}

/// Who forgets to say where a decode ends still gets right sums: each weight takes its own from then on.
#[test]
fn sums_are_right_without_finish_decode() {
    let lengths = [N_TOKENS, 1, N_TOKENS, 5];
    let collector = collector();
    let attachment = Attachment::new(collector.lane());
    let raw = Raw::new(&attachment);
    for n in lengths {
        assert_eq!(raw.decode(n), 0);
    }
    attachment.finish_decode().unwrap();
    assert_eq!(collector.finish().unwrap(), own(&lengths));
    drop(raw);
}

/// Counts what a lane asks for, decode by decode.
struct Counting {
    lane: Lane,
    asked: Vec<usize>,
}

impl Counting {
    fn new() -> Self {
        Self { lane: collector().lane(), asked: vec![0] }
    }
}

impl Observer for Counting {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        let asks = Observer::asks(&mut self.lane, node);
        *self.asked.last_mut().unwrap() += usize::from(asks);
        asks
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        self.lane.sees(node)
    }

    fn end_decode(&mut self) {
        self.lane.end_decode();
        self.asked.push(0);
    }
}

/// What is known after the first decode, that query, key and value read one input, holds in those that follow, also where
/// their graphs are others: that is what the word of a decode's end is for.
#[test]
fn an_input_is_seen_once_from_the_second_decode_on() {
    let lengths = [N_TOKENS, N_TOKENS, 1, 7, N_TOKENS];
    let attachment = Attachment::new(Counting::new());
    let raw = Raw::new(&attachment);
    for n in lengths {
        assert_eq!(raw.decode(n), 0);
        attachment.finish_decode().unwrap();
    }
    let foreign = attachment.with_observer(|counting| counting.asked.clone());
    drop(raw);
    let own = with_model(|model| {
        let mut context = context(model, Counting::new());
        for n in lengths {
            context.clear_memory();
            let mut part = llama_imatrix::llama::Batch::new();
            batch().tokens().take(n).for_each(|(token, position)| part.add(token, position, 0));
            context.decode(&mut part).unwrap();
        }
        context.into_observer().asked
    });
    // Three layers of seven weights with four inputs, and the output matrix.
    assert_eq!(foreign, [22, 13, 13, 13, 13, 0]);
    assert_eq!(own, foreign);
}

#[test]
fn errors_and_panics_wait_for_the_end_of_the_decode() {
    let attachment = Attachment::new(Watch::new("blk.1.ffn_up.weight", Some(|| Err("enough".into()))));
    let raw = Raw::new(&attachment);
    assert_eq!(raw.decode(N_TOKENS), 0, "llama.cpp does not hear of it");
    assert!(attachment.has_failed());
    let error = attachment.finish_decode().unwrap_err();
    assert!(matches!(&error, Error::Observer(inner) if inner.to_string() == "enough"), "{error}");
    assert!(!attachment.has_failed() && attachment.finish_decode().is_ok(), "told once");

    attachment.with_observer(|watch| {
        assert_eq!((watch.seen.len(), watch.asked_after_fault), (1, 0));
        watch.fault = Some(|| panic!("in the callback"));
    });
    assert_eq!(raw.decode(N_TOKENS), 0);
    let payload = catch_unwind(AssertUnwindSafe(|| attachment.finish_decode())).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the callback"));

    assert_eq!(raw.decode(N_TOKENS), 0);
    attachment.finish_decode().unwrap();
    attachment.with_observer(|watch| assert_eq!(watch.seen.len(), 3, "as good as new"));
    drop(raw);
}

/// A failed lane leaves no matrix that looks whole.
#[test]
fn a_collector_that_failed_has_no_matrix() {
    let collector = collector();
    let mut other = collector.clone().lane();
    let attachment = Attachment::new(collector.lane());
    let raw = Raw::new(&attachment);
    assert_eq!(raw.decode(N_TOKENS), 0);
    attachment.finish_decode().unwrap();
    assert!(collector.finish().is_ok());
    // Sums of another width cannot be added to.
    let product = llama_imatrix::collect::Product {
        kind: llama_imatrix::collect::Kind::Dense,
        weight: "blk.0.attn_q.weight",
        weight_ne: [3, 1, 1, 1],
        input: 1,
        input_ne: [3, 1, 1, 1],
        input_is_f32: true,
        ids: 0,
    };
    assert!(other.asks(&product));
    let rows = llama_imatrix::collect::Rows { data: &[1.0; 3], ne: [3, 1, 1, 1], stride: [1, 3, 3, 3] };
    assert!(other.add(&product, &rows, None).is_err());
    assert!(matches!(collector.finish(), Err(llama_imatrix::collect::Error::Stopped)));
    drop(raw);
}
