//! The `NextN` layer of loaded models.

use super::{Error, Shape};
use crate::llama::{Model, Token, Vocab};

/// A `NextN` layer that can be evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'m> {
    /// The model it is loaded with: the trunk's own, or the draft.
    pub model: &'m Model,
    /// Its number among all layers.
    pub index: i32,
    /// Whether it has an output matrix of its own, whose input is collected too.
    pub own_head: bool,
}

/// What [`locate`] found.
#[derive(Debug, Clone, Copy)]
pub enum Located<'m> {
    /// A layer.
    Layer(Layer<'m>),
    /// The model has no `NextN` layers.
    NoLayers,
    /// The model says it has a layer, and its file has no tensor of it.
    NoTensors,
}

/// Finds the `NextN` layer that follows `trunk`, in `source`: `trunk` itself or a draft. `shape` is that of the file of
/// `source`, where it could be read.
///
/// # Errors
/// [`Error::SharedCache`], [`Error::SeveralLayers`].
pub fn locate<'m>(trunk: &Model, source: &'m Model, shape: Option<&Shape>) -> Result<Located<'m>, Error> {
    let index = trunk.n_layer();
    match source.n_layer_nextn() {
        ..=0 => return Ok(Located::NoLayers),
        _ if source.n_layer() == 0 => return Err(Error::SharedCache),
        1 => {}
        found => return Err(Error::SeveralLayers { found: found.unsigned_abs() }),
    }
    let block = shape.and_then(|shape| shape.blocks.get(&u32::try_from(index).ok()?));
    Ok(match block {
        Some(block) => Located::Layer(Layer { model: source, index, own_head: block.own_head }),
        None => Located::NoTensors,
    })
}

/// llama.cpp lets vocabularies differ by so many tokens at the end, which some models pad.
const MAX_PADDING: usize = 128;
/// Special tokens, which may have other names.
const FIRST_COMPARED: usize = 5;

/// Whether tokens mean the same to both, so that one's can be given to the other.
///
/// # Errors
/// [`Error::Vocabulary`] with the first difference.
pub fn check_vocabularies(model: &Model, draft: &Model) -> Result<(), Error> {
    difference(model.vocab(), draft.vocab()).map_or(Ok(()), |rule| Err(Error::Vocabulary { rule }))
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
