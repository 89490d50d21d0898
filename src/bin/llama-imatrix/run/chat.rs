//! The chat template of a run: the model's own, a file's, or one of llama.cpp's.

use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::calibration::{Body, ChatTemplate, Date, SpecialTexts};
use llama_imatrix::llama::{self, Model, Token};

use crate::config::Collect;

/// The reason why a conversation cannot be rendered.
pub(super) const NO_TEMPLATE: &str = "there is none in the model's file\nhint: --chat-template NAME takes one of llama.cpp's, \
                                      such as chatml, --chat-template-file one in Jinja";

/// Fails if a flag names a template that does not exist, before a model is loaded.
pub(super) fn check(task: &Collect) -> anyhow::Result<()> {
    let Some(name) = &task.flags.chat_template else { return Ok(()) };
    ensure!(
        task.flags.chat_template_file.is_none(),
        "--chat-template cannot be combined with --chat-template-file: conversations have one template"
    );
    if is_jinja(name) {
        return Ok(());
    }
    let known = llama::chat_templates();
    if !known.contains(name) {
        bail!("--chat-template: llama.cpp has no template '{name}'\nhint: it has {}", known.join(", "));
    }
    Ok(())
}

/// Returns the template for conversations, if there is a conversation and a template.
pub(super) fn template(task: &Collect, model: &Model) -> anyhow::Result<Option<ChatTemplate>> {
    let needed = task.corpus.items.iter().any(|item| matches!(item.body, Body::Conversation(_)));
    if !needed {
        return Ok(None);
    }
    let special = special_texts(model);
    let date = task.flags.chat_date;
    if let Some(name) = &task.flags.chat_template {
        if is_jinja(name) {
            return ChatTemplate::new(name, special, date).map(Some).context("--chat-template");
        }
        let name = name.clone();
        let render = move |messages: &[(String, String)]| {
            llama::apply_chat_template(&name, messages).map_err(|error| error.to_string())
        };
        return Ok(Some(ChatTemplate::of_function(Box::new(render))));
    }
    if let Some(path) = &task.flags.chat_template_file {
        let source = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the chat template '{}'", path.display()))?;
        let template = ChatTemplate::new(&source, special, date);
        return template.map(Some).with_context(|| format!("'{}'", path.display()));
    }
    own_template(model, &task.model, date)
}

/// Returns the template in the model's file, if there is one; `path` is the file.
pub(super) fn own_template(model: &Model, path: &Path, date: Date) -> anyhow::Result<Option<ChatTemplate>> {
    let Some(source) = model.chat_template() else { return Ok(None) };
    let shown = path.display();
    let mut template = ChatTemplate::new(&source, special_texts(model), date).with_context(|| format!("'{shown}'"))?;
    if let Some(source) = model.tool_use_template() {
        template.set_tool_use(&source).with_context(|| format!("'{shown}' (tool_use)"))?;
    }
    Ok(Some(template))
}

/// Returns the texts of the tokens that templates name.
fn special_texts(model: &Model) -> SpecialTexts {
    let vocab = model.vocab();
    let text = |token: Option<Token>| {
        token.and_then(|token| vocab.text(token)).map(CStr::to_string_lossy).unwrap_or_default().into_owned()
    };
    SpecialTexts { bos: text(vocab.bos()), eos: text(vocab.eos()) }
}

/// Returns true for the source of a template: no name has braces.
fn is_jinja(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}
