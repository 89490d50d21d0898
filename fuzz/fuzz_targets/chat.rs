//! Chat templates, with `tojson`: what a template does to a conversation is bounded, the same each time, and never a panic.
//! A template's length, two bytes, comes first; the template and a JSON line follow.
#![no_main]

mod scratch;

use libfuzzer_sys::fuzz_target;
use llama_imatrix::calibration::{Body, ChatTemplate, Conversation, Corpus, Date, Input, Layout, SpecialTexts};
use serde_json::Value;

/// Sixteen times what its fuel lets a template write.
const MOST_BYTES: usize = 512 << 20;

fn conversation(line: &[u8]) -> Option<Conversation> {
    let path = scratch::file("line.jsonl", line);
    let corpus = Corpus::read(&[Input { path, raw: false }], Layout::Apart).ok()?;
    corpus.items.into_iter().find_map(|item| match item.body {
        Body::Conversation(conversation) => Some(conversation),
        Body::Text(_) => None,
    })
}

fn template(source: &str) -> Option<ChatTemplate> {
    let special = SpecialTexts { bos: "<s>".to_owned(), eos: "</s>".to_owned() };
    ChatTemplate::new(source, special, Date::default()).ok()
}

fuzz_target!(|data: &[u8]| {
    let [low, high, rest @ ..] = data else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (source, line) = rest.split_at(length);
    let Ok(source) = std::str::from_utf8(source) else { return };
    let Some(conversation) = conversation(line) else { return };
    let first_line = line.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());

    if let Some(template) = template(source) {
        let text = template.render(&conversation);
        assert!(text.as_ref().map_or(0, String::len) <= MOST_BYTES);
        assert!(text == template.render(&conversation), "the same conversation gives the same text");
    }
    // What tojson writes is the JSON that was read.
    let written = template("{{ messages | tojson }}").expect("a template of ours").render(&conversation);
    let Some(read) = first_line.and_then(|line| serde_json::from_slice::<Value>(line).ok()) else { return };
    if let (Ok(written), Some(messages)) = (written, read.get("messages")) {
        let again: Value = serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
        assert!(again == *messages, "{again} is not {messages}");
    }
});
