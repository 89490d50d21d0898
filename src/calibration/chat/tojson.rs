//! The filter `tojson` of Hugging Face: Python's `json.dumps`, without escapes for HTML.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Maximum nesting depth of values, the same as for parsed JSON.
const DEEPEST: usize = 128;

struct Style {
    ensure_ascii: bool,
    /// Indentation per level.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
#[allow(clippy::needless_pass_by_value, reason = "filters get their arguments so")]
pub(super) fn tojson(
    state: &State,
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(indent.as_usize().unwrap_or(0).min(64))),
        },
    };
    let separators: Option<Value> = options.get("separators")?;
    let (item_separator, key_separator) = match separators.filter(|separators| !separators.is_none()) {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
    };
    let style = Style {
        ensure_ascii: match ensure_ascii {
            Some(ensure_ascii) => ensure_ascii,
            None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        },
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out, state)?;
    Ok(out)
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String, state: &State) -> Result<(), Error> {
        let invalid = |what: String| Err(Error::new(ErrorKind::InvalidOperation, what));
        if depth > DEEPEST {
            return invalid(format!("tojson: values are nested more than {DEEPEST} deep"));
        }
        let before = out.len();
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&number(f64::try_from(value.clone())?)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_all("[]", &items, depth, out, |item, out| self.write(item, depth + 1, out, state))?;
            }
            ValueKind::Map => {
                let mut fields = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    fields.push((name(&key)?, item));
                }
                if self.sort_keys {
                    fields.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_all("{}", &fields, depth, out, |(name, item), out| {
                    self.write_string(name, out);
                    out.push_str(&self.key_separator);
                    self.write(item, depth + 1, out, state)
                })?;
            }
            other => return invalid(format!("tojson: {other} cannot be written as JSON")),
        }
        // The elements have already been counted.
        state.consume_fuel(1 + if depth == 0 { (out.len() - before) as u64 / 64 } else { 0 })
    }

    fn write_all<T>(
        &self,
        brackets: &str,
        items: &[T],
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(&T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push_str(&brackets[..1]);
        let line = |depth: usize| self.indent.as_ref().map(|indent| format!("\n{}", indent.repeat(depth)));
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            out.push_str(&line(depth + 1).unwrap_or_default());
            write(item, out)?;
        }
        if !items.is_empty() {
            out.push_str(&line(depth).unwrap_or_default());
        }
        out.push_str(&brackets[1..]);
        Ok(())
    }

    fn write_string(&self, text: &str, out: &mut String) {
        let json = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii || json.is_ascii() {
            out.push_str(&json);
            return;
        }
        for letter in json.chars() {
            if letter.is_ascii() {
                out.push(letter);
            } else {
                let mut pair = [0; 2];
                for unit in letter.encode_utf16(&mut pair) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Converts a key to a string, which JSON requires.
fn name(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String | ValueKind::Number => Ok(key.to_string()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        other => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {other} cannot be a key"))),
    }
}

/// Formats a number as Python does: shortest digits that round-trip, and an exponent of at least two digits.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{}e{sign}{exponent:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
        }
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    use super::*;

    fn render(filter: &str) -> String {
        let mut environment = Environment::new();
        environment.set_fuel(Some(100_000));
        environment.add_filter("tojson", tojson);
        let json = r#"{"b":[1,-2.5,1e16,1e22,0.0001,1e-5,12345678901234567890],"a":{"q\"'<&>":"é\n\u0001😀/","n":null},"e":[{},[]],"t":true}"#;
        let value: Value = serde_json::from_str(json).unwrap();
        environment.render_str(&format!("{{{{ x | {filter} }}}}"), Value::from_pairs([("x", value)])).unwrap()
    }

    /// Results of Python 3's `json.dumps`, with `ensure_ascii=False` in all cases but the last.
    #[test]
    fn tojson_writes_what_pythons_json_writes() {
        let b = "1, -2.5, 1e+16, 1e+22, 0.0001, 1e-05, 12345678901234567890";
        assert_eq!(
            render("tojson"),
            format!(r#"{{"b": [{b}], "a": {{"q\"'<&>": "é\n\u0001😀/", "n": null}}, "e": [{{}}, []], "t": true}}"#)
        );
        let tight = render("tojson(separators=(',', ':'), sort_keys=true)");
        assert!(tight.starts_with(r#"{"a":{"n":null,"q\"'<&>":"#), "{tight}");
        let lines = render("tojson(indent=2)");
        assert!(lines.starts_with("{\n  \"b\": [\n    1,\n    -2.5,\n"), "{lines}");
        assert!(lines.ends_with("  \"e\": [\n    {},\n    []\n  ],\n  \"t\": true\n}"), "{lines}");
        assert!(render("tojson(ensure_ascii=true)").contains(r#""\u00e9\n\u0001\ud83d\ude00/""#));
    }
}
