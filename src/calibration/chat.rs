//! Renders conversations with a chat template, in the format that the model was trained on.
//!
//! Templates are Jinja, written for Hugging Face's `apply_chat_template`: its functions and filters are here, and
//! Python's methods of strings and dicts. What it reads from a clock is a fixed date, so that the same input gives the
//! same bytes.

mod date;
mod tojson;

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

pub use date::Date;

use super::jsonl::{Conversation, Shape, role_of};

/// Units of work that a template may use for one conversation. They bound its time and, at 64 bytes per unit, its
/// memory. A thousand messages use a fifth of them.
const FUEL: u64 = 500_000;

/// Stack size of the thread that renders. Nested values are printed, compared and freed by recursion, at some 400 bytes
/// per level, and a template can make at most `FUEL` levels. Pages are allocated when they are used.
const STACK: usize = 1024 * FUEL as usize;

const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "tool_use";

/// Reason why a conversation cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is not valid.
    #[error("the chat template is not valid: {0}")]
    Template(String),
    /// The template fails, or raises an exception, for this conversation.
    #[error("the chat template fails: {0}")]
    Render(String),
}

/// Texts of special tokens, for the template; empty if the vocabulary has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// `bos_token`
    pub bos: String,
    /// `eos_token`
    pub eos: String,
}

/// Renders messages, each a role and a content. Returns the reason if it fails.
pub type Renderer = Box<dyn Fn(&[(String, String)]) -> Result<String, String> + Send + Sync>;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate(Kind);

/// The way in which a conversation is rendered.
enum Kind {
    Jinja(Box<Jinja>),
    Function(Renderer),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jinja(jinja) => jinja.fmt(f),
            Self::Function(_) => f.write_str("a function"),
        }
    }
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`ChatError::Template`].
    pub fn new(source: &str, special: SpecialTexts, date: Date) -> Result<Self, ChatError> {
        Jinja::new(source, special, date).map(|jinja| Self(Kind::Jinja(Box::new(jinja))))
    }

    /// Creates a template from a function of roles and contents, such as one compiled into llama.cpp. It ignores tools.
    #[must_use]
    pub fn of_function(render: Renderer) -> Self {
        Self(Kind::Function(render))
    }

    /// Sets the template for conversations with tools, for models that have a separate one. Has no effect on a template
    /// that is a function.
    ///
    /// # Errors
    /// [`ChatError::Template`].
    pub fn set_tool_use(&mut self, source: &str) -> Result<(), ChatError> {
        match &mut self.0 {
            Kind::Jinja(jinja) => jinja.add(TOOL_USE, source),
            Kind::Function(_) => Ok(()),
        }
    }

    /// Returns a conversation as text, with special tokens as text, and without a prompt for a further answer
    /// (`add_generation_prompt` is false).
    ///
    /// Templates see the line's `messages`, `tools` and `documents`, and what is in its `chat_template_kwargs`.
    ///
    /// # Errors
    /// [`ChatError::Render`].
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        match &self.0 {
            Kind::Jinja(jinja) => jinja.render(conversation),
            Kind::Function(render) => render(&pairs(conversation)?).map_err(ChatError::Render),
        }
    }
}

/// A template in Jinja.
#[derive(Debug)]
struct Jinja {
    environment: Environment<'static>,
    special: SpecialTexts,
}

impl Jinja {
    fn new(source: &str, special: SpecialTexts, date: Date) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| ChatError::Template(error.to_string()))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson::tojson);
        // In Python iterating over None is an error; this library treats it as an empty list.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |state: &State, format: &str| {
            let text = date.format(format).map_err(|error| Error::new(ErrorKind::InvalidOperation, error))?;
            state.consume_fuel(text.len() as u64 / 64)?;
            Ok(text)
        });
        let mut template = Self { environment, special };
        template.add(DEFAULT, source)?;
        Ok(template)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<(), ChatError> {
        let source = without_generation_tags(source);
        self.environment.add_template_owned(name, source).map_err(|error| ChatError::Template(describe(&error)))
    }

    fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        std::thread::scope(|scope| {
            let renderer = std::thread::Builder::new().stack_size(STACK);
            let thread = renderer.spawn_scoped(scope, || self.render_here(conversation));
            let thread = thread.map_err(|error| ChatError::Render(format!("no thread to render in: {error}")))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn render_here(&self, conversation: &Conversation) -> Result<String, ChatError> {
        let failed = |error: Error| ChatError::Render(describe(&error));
        let line: Value =
            serde_json::from_str(conversation.json()).map_err(|error| ChatError::Render(error.to_string()))?;
        let field = |name: &str| match line.get_attr(name) {
            Ok(value) if !value.is_undefined() => value,
            _ => Value::from(()),
        };
        let tools = field("tools");
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), messages(&line, conversation.shape()).map_err(failed)?),
            ("tools".into(), tools.clone()),
            ("documents".into(), field("documents")),
            ("add_generation_prompt".into(), false.into()),
            ("bos_token".into(), self.special.bos.as_str().into()),
            ("eos_token".into(), self.special.eos.as_str().into()),
        ];
        let more = field("chat_template_kwargs");
        if more.kind() == ValueKind::Map {
            for key in more.try_iter().map_err(failed)? {
                let value = more.get_item(&key).map_err(failed)?;
                context.push((key.to_string(), value));
            }
        }
        let tool_use = if tools.is_true() { self.environment.get_template(TOOL_USE).ok() } else { None };
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(failed)?,
        };
        template.render(Value::from_pairs(context)).map_err(failed)
    }
}

/// Returns the messages, with `role` and `content`.
fn messages(line: &Value, shape: Shape) -> Result<Value, Error> {
    match shape {
        Shape::Roles(field) => line.get_attr(field),
        Shape::ShareGpt => {
            let convert = |message: Value| {
                let from = message.get_attr("from")?;
                let role = from.as_str().and_then(role_of).unwrap_or_default();
                Ok(Value::from_pairs([("role", Value::from(role)), ("content", message.get_attr("value")?)]))
            };
            line.get_attr("conversations")?.try_iter()?.map(convert).collect::<Result<Vec<_>, Error>>().map(Value::from)
        }
        Shape::Pair(pair) => {
            let field = |name: &str| line.get_attr(name).map(|value| value.as_str().unwrap_or_default().to_owned());
            let message = |role: &str, content: String| {
                Value::from_pairs([("role", Value::from(role)), ("content", Value::from(content))])
            };
            let mut question = field(pair.question)?;
            let context = pair.context.map(field).transpose()?.unwrap_or_default();
            if !context.is_empty() {
                question = format!("{question}\n\n{context}");
            }
            let system = field("system")?;
            let system = (!system.is_empty()).then(|| message("system", system));
            let pair = [message("user", question), message("assistant", field(pair.answer)?)];
            Ok(system.into_iter().chain(pair).collect::<Vec<_>>().into())
        }
    }
}

/// Returns roles and contents. If a content has parts, its texts are used.
fn pairs(conversation: &Conversation) -> Result<Vec<(String, String)>, ChatError> {
    let failed = |error: Error| ChatError::Render(describe(&error));
    let line: Value =
        serde_json::from_str(conversation.json()).map_err(|error| ChatError::Render(error.to_string()))?;
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let pair = |message: Value| {
        let content = message.get_attr("content")?;
        let content = match content.kind() {
            ValueKind::Seq => content
                .try_iter()?
                .map(|part| part.get_attr("text").map(text))
                .collect::<Result<Vec<_>, Error>>()?
                .concat(),
            _ => text(content),
        };
        Ok((text(message.get_attr("role")?), content))
    };
    let messages = messages(&line, conversation.shape()).map_err(failed)?;
    messages.try_iter().map_err(failed)?.map(pair).collect::<Result<_, Error>>().map_err(failed)
}

/// Formats an error in one line, without the template's line numbers.
fn describe(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    }
}

/// Replaces `{% generation %}` and its end, which mark an assistant's text for training, by an `if` that is always
/// true. Jinja has them as an extension; an `if` follows the same rules for white space.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let (before, tag) = rest.split_at(begin);
        out.push_str(before);
        let Some(length) = tag[2..].find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(length + 4);
        match tag[2..length + 2].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::jsonl::{Record, parse};
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + \
                          '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
                          {% endif %}";
    const HELLO: &str = r#"{"messages":[{"role":"user","content":" Hi <b>"},{"role":"assistant","content":"Ho"}]}"#;

    fn conversation(line: &str) -> Conversation {
        match parse(line).unwrap() {
            Record::Conversation(conversation) => conversation,
            Record::Text(text) => panic!("{text}"),
        }
    }

    fn template(source: &str) -> ChatTemplate {
        let special = SpecialTexts { bos: "<s>".into(), eos: "</s>".into() };
        ChatTemplate::new(source, special, Date::default()).unwrap()
    }

    fn render(source: &str, line: &str) -> Result<String, ChatError> {
        template(source).render(&conversation(line))
    }

    #[test]
    fn a_tag_that_ends_in_its_beginning_is_an_error() {
        // The percent sign of `{%}` begins the tag and does not end it.
        assert_eq!(without_generation_tags("a {%} b {% generation %}"), "a {%} b {% generation %}");
        assert_eq!(without_generation_tags("{%%}{% generation %}{%"), "{%%}{% if true %}{%");
        let special = SpecialTexts { bos: String::new(), eos: String::new() };
        assert!(ChatTemplate::new("{%} %}", special, Date::default()).is_err());
    }

    #[test]
    fn messages_are_rendered_without_a_prompt_for_an_answer() {
        let text = "<|im_start|>user\n Hi <b><|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n";
        assert_eq!(render(CHATML, HELLO).unwrap(), text);
        let share_gpt = r#"{"conversations":[{"from":"human","value":" Hi <b>"},{"from":"gpt","value":"Ho"}]}"#;
        assert_eq!(render(CHATML, share_gpt).unwrap(), text);
        assert_eq!(render(CHATML, &HELLO.replace("messages", "conversations")).unwrap(), text);
    }

    #[test]
    fn questions_with_answers_are_conversations() {
        let begin = "<|im_start|>user\nAdd.";
        let end = "<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n";
        for (line, context) in [
            (r#"{"instruction":"Add.","input":"","output":"3"}"#, ""),
            (r#"{"instruction":"Add.","input":"1 and 2","output":"3"}"#, "\n\n1 and 2"),
            (r#"{"prompt":"Add.","completion":"3"}"#, ""),
        ] {
            assert_eq!(render(CHATML, line).unwrap(), format!("{begin}{context}{end}"), "{line}");
        }
        let with_system = r#"{"system":"Be short.","prompt":"Add.","completion":"3"}"#;
        assert!(
            render(CHATML, with_system)
                .unwrap()
                .starts_with("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user")
        );
    }

    #[test]
    fn a_function_gets_roles_and_contents() {
        let join = |messages: &[(String, String)]| {
            let lines = messages.iter().map(|(role, content)| format!("{role}={content};"));
            Ok(lines.collect::<Vec<_>>().concat())
        };
        let template = ChatTemplate::of_function(Box::new(join));
        assert_eq!(template.render(&conversation(HELLO)).unwrap(), "user= Hi <b>;assistant=Ho;");
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":null}]}"#;
        assert_eq!(template.render(&conversation(parts)).unwrap(), "user=ab;assistant=;");
        let refuses = ChatTemplate::of_function(Box::new(|_| Err("no".to_owned())));
        assert_eq!(refuses.render(&conversation(HELLO)), Err(ChatError::Render("no".to_owned())));
    }

    /// In the manner of Llama 2: methods of strings, exceptions, special tokens, white space control.
    #[test]
    fn templates_written_for_python_run() {
        let source = "{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0].content | trim %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {%- generation %}{{- ' ' ~ message['content'].split('</think>')[-1].lstrip() ~ eos_token }}{% endgeneration %}
    {%- endif %}
    {%- if loop.index0 > 50 %}{% break %}{% endif %}
{%- endfor %}";
        assert_eq!(render(source, HELLO).unwrap(), "<s>[INST] Hi <b> [/INST] Ho</s>");
        let twice = r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}"#;
        let Err(ChatError::Render(reason)) = render(source, twice) else { panic!() };
        assert_eq!(reason, "roles must alternate user/assistant (line 11 of the template)");
    }

    #[test]
    fn tools_keep_the_order_of_their_fields_and_may_have_a_template_of_their_own() {
        let line = r#"{"messages":[{"role":"user","content":"x"}],"tools":[{"name":"f","a":{"z":1,"b":null}}],
                       "chat_template_kwargs":{"thinking":true}}"#;
        let source = "{% if tools %}{{ tools[0] | tojson }}{% endif %}{{ thinking }}{{ documents is none }}";
        assert_eq!(render(source, line).unwrap(), r#"{"name": "f", "a": {"z": 1, "b": null}}TrueTrue"#);
        let mut two = template("plain");
        two.set_tool_use("tools").unwrap();
        assert_eq!(two.render(&conversation(line)).unwrap(), "tools");
        assert_eq!(two.render(&conversation(HELLO)).unwrap(), "plain");
    }

    /// As templates find out whether there are tools.
    #[test]
    fn none_is_not_iterable() {
        let source = "{% if tools is iterable and tools | length > 0 %}tools{% else %}none{% endif %}";
        assert_eq!(render(source, HELLO).unwrap(), "none");
        assert_eq!(render(source, &HELLO.replacen('{', "{\"tools\":[1],", 1)).unwrap(), "tools");
    }

    #[test]
    fn there_is_no_clock() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}", HELLO).unwrap(), "26 Jul 2024");
        assert!(render("{{ strftime_now('%Q') }}", HELLO).unwrap_err().to_string().contains("%Q"));
    }

    #[test]
    fn template_errors_are_one_line() {
        let Err(ChatError::Template(reason)) =
            ChatTemplate::new("\n{% for %}", SpecialTexts::default(), Date::default())
        else {
            panic!()
        };
        assert!(reason.contains("line 2") && !reason.contains('\n'), "{reason}");
        assert!(render("{{ messages[0].missing.deeper }}", HELLO).is_err());
        // A template is a stranger's program: it is stopped, and neither memory nor stack give way.
        assert!(
            render("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", HELLO).is_err()
        );
        for what in ["", "{{ ns.x }}", "{{ ns.x == ns.y }}", "{{ ns.x | sort }}"] {
            let nest = "{% set ns.x = [[[[[[[[[[ns.x]]]]]]]]]] %}{% set ns.y = [[[[[[[[[[ns.y]]]]]]]]]] %}";
            for times in [100, 1000, 10_000, 100_000] {
                let source = format!(
                    "{{% set ns = namespace(x=1, y=1) %}}{{% for i in range({times}) %}}{nest}{{% endfor %}}{what}done"
                );
                assert!(render(&source, HELLO).is_err() || times < 100_000);
            }
        }
        let deep = "{% set ns = namespace(x=[]) %}{% for i in range(2000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}";
        assert!(render(deep, HELLO).unwrap_err().to_string().contains("nested"));
    }
}
