//! JSONL files: one conversation or document per line.

use serde_json::Value;

/// The content of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Text(String),
    Conversation(Conversation),
}

/// Messages for a chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The JSON object, checked: templates see its fields in the order in which they are written.
    json: String,
    shape: Shape,
}

/// Field layout of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{"role": "user", "content": "..."}`, in this field.
    Roles(&'static str),
    /// `{"from": "human", "value": "..."}`, in `conversations`, the format of `ShareGPT`.
    ShareGpt,
    /// A question and its answer in fields of the line, the format of Alpaca and others.
    Pair(&'static Pair),
}

/// Fields of a question and its answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) question: &'static str,
    /// Field with the context of the question; its text is appended to the question.
    pub(super) context: Option<&'static str>,
    pub(super) answer: &'static str,
}

/// Known field pairs. The first pair that a line has is used.
static PAIRS: [Pair; 5] = [
    Pair { question: "instruction", context: Some("input"), answer: "output" },
    Pair { question: "instruction", context: Some("context"), answer: "response" },
    Pair { question: "prompt", context: None, answer: "completion" },
    Pair { question: "prompt", context: None, answer: "response" },
    Pair { question: "question", context: None, answer: "answer" },
];

/// The shapes of a line, for errors.
const EXPECTED: &str = "expected 'messages' (objects with role and content, as OpenAI has it), 'conversations' (from and \
                        value, as ShareGPT has it), 'instruction' and 'output' (Alpaca), 'prompt' and 'completion', or 'text'";

#[cfg_attr(not(feature = "chat"), allow(dead_code, reason = "what renders them alone uses"))]
impl Conversation {
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }
}

/// Reads a line, which is not empty.
///
/// # Errors
/// The field, what was found and what was expected.
pub(super) fn parse(line: &str) -> Result<Record, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| {
        // serde_json counts lines too, and there is only one.
        let error = error.to_string();
        let (what, _) = error.split_once(" at line ").unwrap_or((&error, ""));
        format!("no JSON ({what}, at byte {}); one object per line is expected", column(&error))
    })?;
    let Value::Object(fields) = value else {
        return Err(format!("found {}, not an object; {EXPECTED}", kind(&value)));
    };
    let conversation = |shape| Ok(Record::Conversation(Conversation { json: line.to_owned(), shape }));
    if let Some(messages) = fields.get("messages") {
        check(messages, "messages", "role", "content")?;
        return conversation(Shape::Roles("messages"));
    }
    if let Some(messages) = fields.get("conversations") {
        let first = messages.as_array().and_then(|messages| messages.first());
        if first.is_some_and(|first| first.get("role").is_some()) {
            check(messages, "conversations", "role", "content")?;
            return conversation(Shape::Roles("conversations"));
        }
        check(messages, "conversations", "from", "value")?;
        for (i, message) in messages.as_array().into_iter().flatten().enumerate() {
            let from = message["from"].as_str().unwrap_or_default();
            if role_of(from).is_none() {
                return Err(format!("'conversations[{i}].from' is '{from}', expected {}", FROM.join(", ")));
            }
        }
        return conversation(Shape::ShareGpt);
    }
    if let Some(pair) =
        PAIRS.iter().find(|pair| [pair.question, pair.answer].iter().all(|name| fields.contains_key(*name)))
    {
        for name in [Some(pair.question), Some(pair.answer), pair.context].into_iter().flatten() {
            match fields.get(name) {
                Some(Value::String(_)) => {}
                None | Some(Value::Null) if Some(name) == pair.context => {}
                other => {
                    return Err(format!("'{name}' is {}, expected a string", kind(other.unwrap_or(&Value::Null))));
                }
            }
        }
        return conversation(Shape::Pair(pair));
    }
    match fields.get("text") {
        Some(Value::String(text)) => Ok(Record::Text(text.clone())),
        Some(other) => Err(format!("'text' is {}, expected a string", kind(other))),
        None => {
            let names: Vec<_> = fields.keys().take(8).map(|name| format!("'{name}'")).collect();
            let found = if names.is_empty() { "no fields".to_owned() } else { names.join(", ") };
            Err(format!("found {found}; {EXPECTED} (-bf takes a file as plain text, whatever its name)"))
        }
    }
}

/// Values of `from` that [`role_of`] accepts.
const FROM: [&str; 10] =
    ["system", "human", "user", "gpt", "assistant", "model", "chatgpt", "tool", "observation", "function"];

/// Returns the role for a value of `ShareGPT`'s `from`.
pub(super) fn role_of(from: &str) -> Option<&'static str> {
    Some(match from {
        "system" => "system",
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" => "assistant",
        "tool" | "observation" | "function" => "tool",
        _ => return None,
    })
}

fn check(messages: &Value, field: &str, role: &str, content: &str) -> Result<(), String> {
    let Value::Array(messages) = messages else {
        return Err(format!(
            "'{field}' is {}, expected an array of objects with '{role}' and '{content}'",
            kind(messages)
        ));
    };
    if messages.is_empty() {
        return Err(format!("'{field}' is empty, expected one message at least"));
    }
    for (i, message) in messages.iter().enumerate() {
        let Value::Object(message) = message else {
            return Err(format!(
                "'{field}[{i}]' is {}, expected an object with '{role}' and '{content}'",
                kind(message)
            ));
        };
        match message.get(role) {
            Some(Value::String(_)) => {}
            Some(other) => return Err(format!("'{field}[{i}].{role}' is {}, expected a string", kind(other))),
            None => return Err(format!("'{field}[{i}]' has no '{role}'")),
        }
        // An assistant that calls tools may have no content. The template checks the parts of a message.
        match message.get(content) {
            Some(Value::String(_) | Value::Array(_) | Value::Null) => {}
            Some(other) => return Err(format!("'{field}[{i}].{content}' is {}, expected a string", kind(other))),
            None if message.len() > 1 => {}
            None => return Err(format!("'{field}[{i}]' has no '{content}'")),
        }
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn column(error: &str) -> &str {
    error.rsplit_once(" column ").map_or("?", |(_, column)| column)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conversations_and_texts_are_told_apart() {
        let shape = |line: &str| match parse(line).unwrap() {
            Record::Text(text) => Err(text),
            Record::Conversation(conversation) => Ok(conversation.shape()),
        };
        assert_eq!(shape(r#"{"messages":[{"role":"user","content":"hi"}]}"#), Ok(Shape::Roles("messages")));
        assert_eq!(
            shape(r#"{"conversations":[{"role":"user","content":[{"type":"text"}]}]}"#),
            Ok(Shape::Roles("conversations"))
        );
        assert_eq!(shape(r#"{"conversations":[{"from":"human","value":"hi"}],"id":1}"#), Ok(Shape::ShareGpt));
        for (line, question, answer) in [
            (r#"{"instruction":"a","input":"","output":"b"}"#, "instruction", "output"),
            (r#"{"instruction":"a","context":null,"response":"b","category":"c"}"#, "instruction", "response"),
            (r#"{"prompt":"a","completion":"b"}"#, "prompt", "completion"),
            (r#"{"question":"a","answer":"b","text":"whole"}"#, "question", "answer"),
        ] {
            let Ok(Shape::Pair(pair)) = shape(line) else { panic!("{line}") };
            assert_eq!((pair.question, pair.answer), (question, answer));
        }
        assert_eq!(shape(r#"{"text":"a\nb","meta":{}}"#), Err("a\nb".to_owned()));
        assert!(shape(r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[]}],"tools":[]}"#).is_ok());
        assert!(shape(r#"{"messages":[{"role":"assistant","tool_calls":[]}]}"#).is_ok());
    }

    #[test]
    fn errors_name_the_field_what_was_found_and_what_was_expected() {
        for (line, says) in [
            ("[1]", "found an array, not an object; expected 'messages'"),
            ("{", "no JSON (EOF while parsing an object, at byte 1)"),
            ("{} {}", "no JSON (trailing characters, at byte 4)"),
            (
                "{}",
                "found no fields; expected 'messages' (objects with role and content, as OpenAI has it), 'conversations'",
            ),
            (r#"{"instruction":"a","input":3,"output":"b"}"#, "'input' is a number, expected a string"),
            (r#"{"instruction":"a","output":null}"#, "'output' is null, expected a string"),
            (r#"{"prompt":1,"answer":2}"#, "found 'answer', 'prompt'; expected 'messages'"),
            (r#"{"text":3}"#, "'text' is a number, expected a string"),
            (r#"{"messages":"hi"}"#, "'messages' is a string, expected an array of objects with 'role' and 'content'"),
            (r#"{"messages":[]}"#, "'messages' is empty, expected one message at least"),
            (r#"{"messages":[{"role":"user","content":"a"},7]}"#, "'messages[1]' is a number, expected an object"),
            (r#"{"messages":[{"content":"a"}]}"#, "'messages[0]' has no 'role'"),
            (r#"{"messages":[{"role":1,"content":"a"}]}"#, "'messages[0].role' is a number, expected a string"),
            (r#"{"messages":[{"role":"user","content":1}]}"#, "'messages[0].content' is a number, expected a string"),
            (r#"{"messages":[{"role":"user"}]}"#, "'messages[0]' has no 'content'"),
            (r#"{"conversations":[{"from":"bot","value":"a"}]}"#, "'conversations[0].from' is 'bot', expected system,"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.starts_with(says), "{line}: {error}");
        }
        assert!(FROM.iter().all(|from| role_of(from).is_some()));
    }

    proptest! {
        #[test]
        fn any_json_line_is_read_or_refused(line in "\\PC{0,80}") {
            let _ = parse(&line);
        }
    }
}
