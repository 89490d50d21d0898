//! Finds the `NextN` layer of loaded models.

use super::{Error, ModelHeader};
use crate::llama::{Model, Token, Vocab};

/// A `NextN` layer that can be evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'m> {
    /// Model that has the layer: the trunk's model or the draft model.
    pub model: &'m Model,
    /// Index among all layers.
    pub index: i32,
    /// True if the layer has its own LM head, whose input is also collected.
    pub own_head: bool,
}

/// The result of [`locate`].
#[derive(Debug, Clone, Copy)]
pub enum Located<'m> {
    /// A layer that can be evaluated.
    Layer(Layer<'m>),
    /// The model has no `NextN` layers.
    NoLayers,
    /// The header declares a layer, but the file has no tensors for it.
    NoTensors,
}

/// Finds the `NextN` layer that follows `trunk` in `source`, which is `trunk` itself or a draft model. `header` is the header
/// of the file of `source`, if it could be read.
///
/// # Errors
/// A layer that shares the trunk's cache, or several layers.
pub fn locate<'m>(trunk: &Model, source: &'m Model, header: Option<&ModelHeader>) -> Result<Located<'m>, Error> {
    let index = trunk.n_layer();
    match source.n_layer_nextn() {
        ..=0 => return Ok(Located::NoLayers),
        _ if source.n_layer() == 0 => return Err(Error::shared_cache()),
        1 => {}
        found => return Err(Error::several_layers(found.unsigned_abs())),
    }
    let block = header.and_then(|header| header.blocks.get(&u32::try_from(index).ok()?));
    Ok(match block {
        Some(block) => Located::Layer(Layer { model: source, index, own_head: block.own_head }),
        None => Located::NoTensors,
    })
}

/// Number of tokens at the end by which llama.cpp lets vocabularies differ, since some models have padding.
const MAX_PADDING: usize = 128;
/// First token that is compared: the special tokens before it may have other names.
const FIRST_COMPARED: usize = 5;

/// Checks that both vocabularies have the same tokens, so that the draft model can evaluate tokens of the model.
///
/// # Errors
/// The first difference.
pub fn check_vocabularies(model: &Model, draft: &Model) -> Result<(), Error> {
    difference(model.vocab(), draft.vocab())
        .map_or(Ok(()), |rule| Err(Error(format!("the target and draft vocab are not compatible: {rule}"))))
}

fn name(token: Option<Token>) -> String {
    token.map_or_else(|| "no token".to_owned(), |token| format!("token {token}"))
}

fn difference(model: Vocab<'_>, draft: Vocab<'_>) -> Option<String> {
    if model.kind() != draft.kind() {
        return Some(format!("the target's tokenizer is {}, the draft's {}", model.kind(), draft.kind()));
    }
    if model.leading_bos() != draft.leading_bos() {
        let [model, draft] = [model, draft].map(|vocab| name(vocab.leading_bos()));
        return Some(format!("texts begin with {model} in the target, {draft} in the draft"));
    }
    if model.trailing_eos() != draft.trailing_eos() {
        let [model, draft] = [model, draft].map(|vocab| name(vocab.trailing_eos()));
        return Some(format!("texts end with {model} in the target, {draft} in the draft"));
    }
    let (n_model, n_draft) = (model.n_tokens(), draft.n_tokens());
    if n_model.abs_diff(n_draft) > MAX_PADDING {
        return Some(format!("{n_model} tokens in the target, {n_draft} in the draft"));
    }
    let token =
        (FIRST_COMPARED..n_model.min(n_draft)).find(|&token| model.text(token as i32) != draft.text(token as i32))?;
    let [model, draft] = [model, draft].map(|vocab| vocab.text(token as i32).unwrap_or_default().to_string_lossy());
    Some(format!("token {token} is '{model}' in the target, '{draft}' in the draft"))
}
