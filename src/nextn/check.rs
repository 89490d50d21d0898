use std::path::Path;

use super::{Error, Shape};

/// Whether `model`, and `draft` where its `NextN` layer lies in a file of its own, go together, as far as their headers
/// tell: found in milliseconds, where loading takes minutes.
///
/// A model that cannot be read passes: llama.cpp, which loads it next, knows more ways to read one and says what is
/// wrong.
///
/// # Errors
/// See [`Error`].
pub fn check_files(model: &Path, draft: Option<&Path>) -> Result<(), Error> {
    let shape = Shape::read(model).ok();
    let Some(draft) = draft else {
        return shape.map_or(Ok(()), |shape| check_alone(model, &shape));
    };
    if let Some(shape) = &shape {
        check_trunk(model, shape)?;
    }
    let of_draft = Shape::read(draft).map_err(|reason| Error::Unreadable { path: draft.to_owned(), reason })?;
    check_pair(shape.as_ref(), draft, &of_draft)
}

/// A model without a draft is none itself.
fn check_alone(path: &Path, shape: &Shape) -> Result<(), Error> {
    let has_nextn = shape.n_layer_nextn > 0 || shape.first_nextn.is_some();
    // The parts of a split model but the first may lack layer 0 too, but llama.cpp is given the first.
    if has_nextn && !shape.has_trunk { Err(Error::ModelIsDraft { path: path.to_owned() }) } else { Ok(()) }
}

/// A model with a draft has no `NextN` layer itself.
fn check_trunk(path: &Path, shape: &Shape) -> Result<(), Error> {
    let path = || path.to_owned();
    if shape.n_layer_nextn > 0 {
        return Err(Error::InModel { path: path(), n_layer_nextn: shape.n_layer_nextn });
    }
    match &shape.first_nextn {
        Some(tensor) => Err(Error::TensorInModel { path: path(), tensor: tensor.clone() }),
        None => Ok(()),
    }
}

fn check_pair(model: Option<&Shape>, path: &Path, draft: &Shape) -> Result<(), Error> {
    let path = || path.to_owned();
    if draft.n_parts > 1 {
        return Err(Error::Split { path: path(), n_parts: draft.n_parts });
    }
    if let Some(model) = model
        && draft.arch != model.arch
    {
        return Err(Error::Architecture { draft: draft.arch.clone(), model: model.arch.clone() });
    }
    if draft.n_layer_nextn == 0 || draft.has_trunk {
        return Err(Error::NotADraft { path: path() });
    }
    if draft.n_layer_nextn > 1 {
        return Err(Error::SeveralLayers { found: draft.n_layer_nextn });
    }
    if draft.n_trunk() == 0 {
        return Err(Error::SharedCache);
    }
    let Some(model) = model else { return Ok(()) };
    let index = model.n_trunk();
    if !draft.blocks.contains_key(&index) {
        return Err(Error::OtherIndex { path: path(), index });
    }
    if draft.n_embd_out != model.n_embd_out {
        return Err(Error::Width { draft: draft.n_embd_out, model: model.n_embd_out });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Block;
    use super::*;

    fn trunk() -> Shape {
        Shape { arch: "a".into(), n_layer: 2, n_embd_out: 64, n_parts: 1, has_trunk: true, ..Shape::default() }
    }

    fn draft() -> Shape {
        let blocks = BTreeMap::from([(2, Block::default())]);
        let first_nextn = Some("blk.2.nextn.enorm.weight".into());
        Shape { n_layer: 3, n_layer_nextn: 1, has_trunk: false, first_nextn, blocks, ..trunk() }
    }

    fn says(model: Option<&Shape>, draft: &Shape) -> String {
        check_pair(model, Path::new("d.gguf"), draft).unwrap_err().to_string()
    }

    #[test]
    fn a_pair_that_fits() {
        assert!(check_trunk(Path::new("m.gguf"), &trunk()).is_ok());
        assert!(check_pair(Some(&trunk()), Path::new("d.gguf"), &draft()).is_ok());
        assert!(check_pair(None, Path::new("d.gguf"), &draft()).is_ok());
    }

    #[test]
    fn a_draft_stands_for_no_model_and_a_model_with_nextn_needs_no_draft() {
        let path = Path::new("m.gguf");
        assert!(check_alone(path, &trunk()).is_ok());
        assert!(check_alone(path, &Shape { has_trunk: true, ..draft() }).is_ok());
        assert!(matches!(check_alone(path, &draft()), Err(Error::ModelIsDraft { .. })));
        let declared = Shape { n_layer_nextn: 1, ..trunk() };
        assert!(matches!(check_trunk(path, &declared), Err(Error::InModel { n_layer_nextn: 1, .. })));
        let undeclared = Shape { first_nextn: Some("blk.2.nextn.enorm.weight".into()), ..trunk() };
        assert!(matches!(check_trunk(path, &undeclared), Err(Error::TensorInModel { .. })));
    }

    #[test]
    fn each_rule_of_a_pair_in_order() {
        let model = trunk();
        let wrong = Shape { n_parts: 3, arch: "b".into(), n_layer_nextn: 2, n_layer: 2, n_embd_out: 32, ..draft() };
        assert!(says(Some(&model), &wrong).contains("'d.gguf' is not a readable single-shard GGUF: it is one of 3"));
        let wrong = Shape { n_parts: 1, ..wrong };
        assert!(says(Some(&model), &wrong).contains("architecture 'b' does not match the target architecture 'a'"));
        let wrong = Shape { arch: "a".into(), has_trunk: true, ..wrong };
        assert!(says(Some(&model), &wrong).contains("is not a draft"));
        assert!(says(Some(&model), &Shape { n_layer_nextn: 0, ..draft() }).contains("is not a draft"));
        let wrong = Shape { has_trunk: false, ..wrong };
        assert!(says(Some(&model), &wrong).contains("not supported (found 2)"));
        let wrong = Shape { n_layer_nextn: 1, n_layer: 1, ..wrong };
        assert!(says(None, &wrong).contains("sharing the trunk's KV cache"));
        let wrong = Shape { n_layer: 3, ..wrong };
        let other = Shape { n_layer: 4, ..trunk() };
        assert!(says(Some(&other), &wrong).contains("no NextN tensors at layer index 4 in 'd.gguf'"));
        assert!(says(Some(&model), &wrong).contains("the draft output width 32 does not match the target's 64"));
    }
}
