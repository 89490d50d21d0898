//! What safe code may ask of the layer, and what it is refused: lengths, order and lifetimes are never on trust.
//!
//! Lifetimes themselves are in `compile_fail` examples of the types' documentation.

use llama_imatrix::llama::{NextnContext, Op, nextn_available};

use super::*;

#[test]
fn logits_are_those_of_the_last_decode_or_none() {
    with_model(|model| {
        let n_vocab = model.vocab().n_tokens();
        let mut context = context(model, ());
        assert!(context.logits().is_none(), "nothing was decoded");
        let mut few = Batch::new();
        (0..3).for_each(|i| few.add(3, i, 0));
        context.decode(&mut few).unwrap();
        assert_eq!(context.logits().unwrap().len(), 3 * n_vocab);
        let mut unknown = Batch::new();
        unknown.add(n_vocab as i32, 3, 0);
        assert!(matches!(context.decode(&mut unknown), Err(Error::Decode { .. })));
        assert!(context.logits().is_none(), "the last decode failed");
        context.clear_memory();
        context.decode(&mut few).unwrap();
        context.record(&mut batch()).unwrap();
        assert!(context.logits().is_none(), "the last decode was recorded");
        context.decode(&mut few).unwrap();
        assert!(context.decode(&mut Batch::new()).is_err());
        assert!(context.logits().is_none(), "an empty batch");
    });
    with_built("bert", |model| {
        let mut context = context(model, ());
        context.decode(&mut batch()).unwrap();
        assert!(context.logits().is_none(), "an encoder's room for logits is never written");
    });
}

#[test]
fn targets_must_be_one_per_token_and_in_the_vocabulary() {
    with_model(|model| {
        let n_vocab = model.vocab().n_tokens() as i32;
        for outputs in [Outputs::All, Outputs::Scores] {
            let mut context = context_with(model, outputs, ());
            for targets in [vec![Some(3); 5], vec![Some(3); 40], vec![Some(n_vocab); 32], vec![Some(-1); 32]] {
                let found = context.score(&mut batch(), targets.clone());
                assert!(matches!(found, Err(Error::Targets { .. })), "{outputs:?} {targets:?}: {found:?}");
            }
            assert_eq!(context.score(&mut batch(), vec![Some(3); 32]).unwrap().unwrap().len(), 32);
        }
    });
}

#[test]
fn a_model_without_weights_computes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, support::build("llama")).unwrap();
    let dry = ModelOptions { dry: true, ..ModelOptions::default() };
    let model = Model::load(&path, &dry).unwrap();
    let mut context = context(&model, ());
    assert!(matches!(context.decode(&mut batch()), Err(Error::NoWeights)));
    assert!(matches!(context.record(&mut batch()), Err(Error::NoWeights)));
    assert!(matches!(context.score(&mut batch(), vec![None; 32]), Err(Error::NoWeights)));
}

/// Observes the product with the output matrix, and everything that can be reached from it.
#[derive(Default)]
struct Reach {
    own: Option<bool>,
    input: Option<bool>,
    weight: Option<bool>,
    behind: Option<bool>,
}

impl Observer for Reach {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        let is_head = |weight: TensorInfo<'_>| matches!(weight.name(), "output.weight" | "token_embd.weight");
        node.op() == Op::MulMat && node.src(0).is_some_and(is_head)
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        let reads = |tensor: TensorRef<'_>| {
            let mut values = Vec::new();
            let all = [tensor.as_f32().is_some(), tensor.copy_f32(&mut values), tensor.to_f32(&mut values).is_ok()];
            assert!(all.iter().all(|&read| read == all[0]), "{tensor:?}: {all:?}");
            assert_eq!(tensor.append_rows(&[0], &mut values), all[0]);
            all[0]
        };
        let input = node.src(1).unwrap();
        self.own = Some(reads(node));
        self.input = Some(reads(input));
        self.weight = Some(reads(node.src(0).unwrap()));
        self.behind = Some(reads(input.src(0).unwrap()));
        Ok(())
    }
}

#[test]
fn only_data_that_is_computed_and_kept_can_be_read() {
    with_model(|model| {
        let mut context = context_with(model, Outputs::Nothing, Reach::default());
        context.decode(&mut batch()).unwrap();
        let Reach { own, input, weight, behind } = context.into_observer();
        assert_eq!((own, input), (Some(false), Some(true)), "the product is left out, its input is there");
        assert_eq!(weight, Some(true), "weights stay");
        assert_eq!(behind, Some(false), "the memory of what the input was made of may be used again");
        let mut context = self::context(model, Reach::default());
        context.decode(&mut batch()).unwrap();
        assert_eq!(context.observer().own, Some(true), "where all is computed");
    });
}

/// Observes the first norm, and the first view of a product.
#[derive(Default)]
struct Behind {
    norm: Option<[bool; 2]>,
    view: Option<[bool; 2]>,
}

impl Observer for Behind {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        node.op_name() == "RMS_NORM" || node.op_name() == "RESHAPE" || node.op_name() == "VIEW"
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        let reads = |tensor: TensorRef<'_>| tensor.to_bytes(&mut Vec::new()).is_ok();
        match node.view_src() {
            None if self.norm.is_none() => {
                let embeddings = node.src(0).unwrap();
                assert_eq!(embeddings.op_name(), "GET_ROWS");
                self.norm = Some([0, 1].map(|source| reads(embeddings.src(source).unwrap())));
            }
            Some(viewed) if self.view.is_none() && viewed.op() == Op::MulMat => {
                self.view = Some([reads(viewed), reads(viewed.src(1).unwrap())]);
            }
            _ => {}
        }
        Ok(())
    }
}

/// ggml may use the memory of other tensors again once their last reader is computed.
#[test]
fn behind_a_source_and_behind_a_view_only_weights_can_be_read() {
    with_model(|model| {
        let mut context = context(model, Behind::default());
        context.decode(&mut batch()).unwrap();
        let Behind { norm, view } = context.into_observer();
        assert_eq!(norm, Some([true, false]), "the embeddings are a weight, the tokens an input");
        assert_eq!(view, Some([true, false]), "a view has its original's data; the original's sources may be gone");
    });
}

#[test]
fn a_model_without_nextn_layers_has_no_nextn_context() {
    if !nextn_available() {
        return;
    }
    with_model(|model| {
        let made = NextnContext::new(model, &options(Outputs::All), (), true);
        assert!(made.is_err());
    });
}

#[test]
fn any_number_of_threads_is_clamped_to_ggmls_range() {
    with_model(|model| {
        for n_threads in [i32::MIN, 0, 1, i32::MAX] {
            let options = ContextOptions { n_threads, n_threads_batch: n_threads, ..options(Outputs::All) };
            let mut context = Context::new(model, &options, ()).unwrap();
            context.set_threads(0);
            context.decode(&mut batch()).unwrap();
        }
        let mut context = context_with(model, Outputs::Scores, ());
        assert_eq!(context.computes_all_logits(), None);
        context.set_threads(1 << 16);
        assert!(context.score(&mut batch(), vec![Some(3); 32]).unwrap().is_some());
    });
}

/// GPT-2 and BERT look positions up in a table, and ggml aborts the process at one that is not there.
#[test]
fn positions_that_were_not_learned_are_refused() {
    for name in ["gpt2", "bert"] {
        with_built(name, |model| {
            let limit = model.learned_positions().unwrap();
            let mut context = context(model, ());
            for position in [limit, i32::MAX, -1] {
                let mut batch = Batch::new();
                batch.add(3, position, 0);
                let refused = context.decode(&mut batch);
                assert!(
                    matches!(refused, Err(Error::Position { found, .. }) if found == position),
                    "{name} {position}: {refused:?}"
                );
            }
            context.decode(&mut self::batch()).unwrap();
        });
    }
    with_model(|model| assert_eq!(model.learned_positions(), None));
}

/// Pages that are not reserved are the program's affair: a library leaves its process as it is.
#[cfg(target_os = "linux")]
#[test]
fn initializing_leaves_the_allocator_of_the_process_alone() {
    with_model(|model| {
        // A cache of 96 MiB, above what any allocator maps for itself.
        let options = ContextOptions { n_ctx: 1 << 18, ..options(Outputs::Nothing) };
        let context = Context::new(model, &options, ()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut size = 0;
        let mut largest = (0, false);
        for line in maps.lines() {
            if let Some(kib) = line.strip_prefix("Size:") {
                size = kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                let writable = flags.split_whitespace().any(|flag| flag == "wr");
                let unreserved = flags.split_whitespace().any(|flag| flag == "nr");
                if writable && size > largest.0 {
                    largest = (size, unreserved);
                }
            }
        }
        assert!(largest.0 >= 80 << 10, "the cache is mapped: {largest:?}");
        assert!(!largest.1, "memory is taken without the system's promise: {largest:?}");
        drop(context);
    });
}
