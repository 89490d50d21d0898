//! Hidden states and the context that takes them.

use llama_imatrix::llama::NextnContext;

use super::*;

const N_EMBD: usize = 64;

fn with_nextn<T>(test: impl FnOnce(&Model) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nextn.gguf");
    std::fs::write(&path, support::build("nextn")).unwrap();
    test(&Model::load(&path, &ModelOptions { nextn: true, ..ModelOptions::default() }).unwrap())
}

fn options() -> ContextOptions {
    ContextOptions::new(64, Outputs::All)
}

fn fill(layer: &mut NextnContext<'_, Watch>) {
    (0..N_TOKENS as i32).for_each(|i| layer.push(3 + i, i, &[0.5; N_EMBD]).unwrap());
}

#[test]
fn a_model_reports_its_nextn_layers() {
    with_nextn(|model| assert_eq!((model.n_layer(), model.n_layer_nextn(), model.n_embd_out()), (2, 1, N_EMBD)));
    with_model(|model| assert_eq!((model.n_layer(), model.n_layer_nextn()), (3, 0)));
}

#[test]
fn hidden_states_are_readable_once_kept() {
    with_nextn(|model| {
        let mut context = context(model, ());
        context.decode(&mut batch()).unwrap();
        assert!(matches!(context.nextn_state(0), Err(Error::NextnState { row: 0 })));
        context.keep_nextn_states().unwrap();
        context.clear_memory();
        context.decode(&mut batch()).unwrap();
        for row in [0, N_TOKENS - 1] {
            let state = context.nextn_state(row).unwrap();
            assert_eq!(state.len(), N_EMBD);
            assert!(state.iter().all(|x| x.is_finite()) && state.iter().any(|&x| x != 0.0));
        }
        assert!(matches!(context.nextn_state(1 << 40), Err(Error::NextnState { .. })));
    });
}

#[test]
fn a_layer_is_evaluated_on_tokens_with_states() {
    with_nextn(|model| {
        let watch = Watch::new("blk.2.nextn.eh_proj.weight", None);
        let mut layer = NextnContext::new(model, &options(), watch, false).unwrap();
        assert!(layer.is_empty());
        fill(&mut layer);
        assert_eq!(layer.len(), N_TOKENS);
        layer.decode().unwrap();
        assert!(layer.is_empty());
        assert_eq!(layer.observer_mut().seen.len(), 1);
        layer.clear();
        fill(&mut layer);
        layer.decode().unwrap();
        let seen = &layer.observer_mut().seen;
        assert_eq!(seen[0], seen[1], "from an empty memory again");
    });
}

#[test]
fn tokens_and_states_that_do_not_fit_are_refused() {
    with_nextn(|model| {
        let mut layer = NextnContext::new(model, &options(), Watch::new("none", None), false).unwrap();
        let narrow = layer.push(3, 7, &[0.5; N_EMBD / 2]);
        let wanted = Error::NextnToken { position: 7, width: N_EMBD / 2, expected: N_EMBD };
        assert_eq!(narrow.unwrap_err().to_string(), wanted.to_string());
        layer.push(3, 0, &[0.5; N_EMBD]).unwrap();
        assert!(layer.push(1_000_000, 1, &[0.5; N_EMBD]).is_err(), "no such token");
        assert!(layer.is_empty());
        for position in 0..64 {
            layer.push(3, position, &[0.5; N_EMBD]).unwrap();
        }
        assert!(layer.push(3, 64, &[0.5; N_EMBD]).is_err(), "the batch is full");
        layer.clear();
        fill(&mut layer);
        layer.decode().unwrap();
    });
    with_model(|model| {
        assert!(matches!(NextnContext::new(model, &options(), (), false), Err(Error::ContextInit { .. })));
    });
}

#[test]
fn errors_and_panics_of_a_nextn_observer_are_raised() {
    with_nextn(|model| {
        let weight = "blk.2.nextn.eh_proj.weight";
        for fault in [|| Err("not today".into()), || panic!("not today")] as [fn() -> Result<(), ObserverError>; 2] {
            let mut layer = NextnContext::new(model, &options(), Watch::new(weight, Some(fault)), false).unwrap();
            fill(&mut layer);
            let said = match catch_unwind(AssertUnwindSafe(|| layer.decode())) {
                Ok(result) => result.unwrap_err().to_string(),
                Err(payload) => (*payload.downcast_ref::<&str>().unwrap()).to_owned(),
            };
            assert_eq!(said, "not today");
        }
    });
}
