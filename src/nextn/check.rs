//! Checks from the headers of two files whether a model and a draft model match.

use std::path::Path;

use super::{Error, ModelHeader};

/// Checks from the headers whether `model` and `draft`, the file that has its `NextN` layer if there is a second one, match.
/// This takes milliseconds; loading takes minutes.
///
/// A model that cannot be read passes: llama.cpp loads it next, supports more kinds of files and reports what is wrong.
///
/// # Errors
/// See [`Error`].
pub fn check_files(model: &Path, draft: Option<&Path>) -> Result<(), Error> {
    let header = ModelHeader::read(model).ok();
    let Some(draft) = draft else {
        return header.map_or(Ok(()), |header| check_alone(model, &header));
    };
    if let Some(header) = &header {
        check_trunk(model, header)?;
    }
    let draft_header = ModelHeader::read(draft)
        .map_err(|reason| refused(draft, &format!("is not a readable single-shard GGUF: {reason}")))?;
    check_pair(header.as_ref(), draft, &draft_header)
}

/// Checks that a model given without a draft model is not a draft model.
fn check_alone(path: &Path, header: &ModelHeader) -> Result<(), Error> {
    let has_nextn = header.n_layer_nextn > 0 || header.first_nextn.is_some();
    // In a split model only the first part needs to have layer 0, and llama.cpp is given the first.
    if has_nextn && !header.has_trunk {
        return Err(refused(path, "is a NextN draft, use with --model-draft/-md"));
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> Error {
    Error(format!("'{}' {why}", path.display()))
}

/// Checks that a model given with a draft model has no `NextN` layer.
fn check_trunk(path: &Path, header: &ModelHeader) -> Result<(), Error> {
    let path = path.display();
    if header.n_layer_nextn > 0 {
        return Err(Error(format!(
            "the model already includes NextN layers: '{path}' has {}, use it with --nextn and without --model-draft/-md",
            header.n_layer_nextn
        )));
    }
    match &header.first_nextn {
        Some(tensor) => {
            Err(Error(format!("the model already includes NextN layers (NextN tensor '{tensor}' in '{path}')")))
        }
        None => Ok(()),
    }
}

fn check_pair(model: Option<&ModelHeader>, path: &Path, draft: &ModelHeader) -> Result<(), Error> {
    if draft.n_parts > 1 {
        let why = format!("is not a readable single-shard GGUF: it is one of {} parts", draft.n_parts);
        return Err(refused(path, &why));
    }
    if let Some(model) = model
        && draft.arch != model.arch
    {
        let (draft, model) = (&draft.arch, &model.arch);
        return Err(Error(format!(
            "the draft architecture '{draft}' does not match the target architecture '{model}'"
        )));
    }
    if draft.n_layer_nextn == 0 || draft.has_trunk {
        return Err(refused(path, "is not a draft (no NextN layers or trunk tensors present)"));
    }
    if draft.n_layer_nextn > 1 {
        return Err(Error::several_layers(draft.n_layer_nextn));
    }
    if draft.n_trunk() == 0 {
        return Err(Error::shared_cache());
    }
    let Some(model) = model else { return Ok(()) };
    let index = model.n_trunk();
    if !draft.blocks.contains_key(&index) {
        return Err(Error(format!("no NextN tensors at layer index {index} in '{}' found", path.display())));
    }
    if draft.n_embd_out != model.n_embd_out {
        let (draft, model) = (draft.n_embd_out, model.n_embd_out);
        return Err(Error(format!("the draft output width {draft} does not match the target's {model}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::header::Block;
    use super::*;

    fn trunk() -> ModelHeader {
        ModelHeader {
            arch: "a".into(),
            n_layer: 2,
            n_embd_out: 64,
            n_parts: 1,
            has_trunk: true,
            ..ModelHeader::default()
        }
    }

    fn draft() -> ModelHeader {
        let blocks = BTreeMap::from([(2, Block::default())]);
        let first_nextn = Some("blk.2.nextn.enorm.weight".into());
        ModelHeader { n_layer: 3, n_layer_nextn: 1, has_trunk: false, first_nextn, blocks, ..trunk() }
    }

    fn says(model: Option<&ModelHeader>, draft: &ModelHeader) -> String {
        check_pair(model, Path::new("d.gguf"), draft).unwrap_err().to_string()
    }

    #[test]
    fn a_trunk_and_its_draft_are_accepted() {
        assert!(check_trunk(Path::new("m.gguf"), &trunk()).is_ok());
        assert!(check_pair(Some(&trunk()), Path::new("d.gguf"), &draft()).is_ok());
        assert!(check_pair(None, Path::new("d.gguf"), &draft()).is_ok());
    }

    #[test]
    fn a_draft_without_a_trunk_or_for_a_model_with_nextn_is_refused() {
        let path = Path::new("m.gguf");
        assert!(check_alone(path, &trunk()).is_ok());
        assert!(check_alone(path, &ModelHeader { has_trunk: true, ..draft() }).is_ok());
        let says = |checked: Result<(), Error>| checked.unwrap_err().to_string();
        assert!(says(check_alone(path, &draft())).starts_with("'m.gguf' is a NextN draft"));
        let declared = ModelHeader { n_layer_nextn: 1, ..trunk() };
        assert!(says(check_trunk(path, &declared)).contains("already includes NextN layers: 'm.gguf' has 1,"));
        let undeclared = ModelHeader { first_nextn: Some("blk.2.nextn.enorm.weight".into()), ..trunk() };
        assert!(says(check_trunk(path, &undeclared)).contains("(NextN tensor 'blk.2.nextn.enorm.weight' in 'm.gguf')"));
    }

    #[test]
    fn each_rule_of_a_pair_has_its_error() {
        let model = trunk();
        let wrong =
            ModelHeader { n_parts: 3, arch: "b".into(), n_layer_nextn: 2, n_layer: 2, n_embd_out: 32, ..draft() };
        assert!(says(Some(&model), &wrong).contains("'d.gguf' is not a readable single-shard GGUF: it is one of 3"));
        let wrong = ModelHeader { n_parts: 1, ..wrong };
        assert!(says(Some(&model), &wrong).contains("architecture 'b' does not match the target architecture 'a'"));
        let wrong = ModelHeader { arch: "a".into(), has_trunk: true, ..wrong };
        assert!(says(Some(&model), &wrong).contains("is not a draft"));
        assert!(says(Some(&model), &ModelHeader { n_layer_nextn: 0, ..draft() }).contains("is not a draft"));
        let wrong = ModelHeader { has_trunk: false, ..wrong };
        assert!(says(Some(&model), &wrong).contains("not supported (found 2)"));
        let wrong = ModelHeader { n_layer_nextn: 1, n_layer: 1, ..wrong };
        assert!(says(None, &wrong).contains("sharing the trunk's KV cache"));
        let wrong = ModelHeader { n_layer: 3, ..wrong };
        let other = ModelHeader { n_layer: 4, ..trunk() };
        assert!(says(Some(&other), &wrong).contains("no NextN tensors at layer index 4 in 'd.gguf'"));
        assert!(says(Some(&model), &wrong).contains("the draft output width 32 does not match the target's 64"));
    }
}
