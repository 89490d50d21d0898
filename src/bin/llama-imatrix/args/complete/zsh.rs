use std::fmt::Write as _;

use super::super::command::{Command, Operands};
use super::super::groups::flags;
use super::super::table::Set;

pub(in super::super) fn script(commands: &[Command]) -> String {
    let mut text = String::from(
        "#compdef llama-imatrix\n\n\
         _llama_imatrix() {\n    local -a commands\n    commands=(\n",
    );
    for command in commands {
        let _ = writeln!(text, "        {}", quoted(&format!("{}:{}", command.name, command.what.replace(':', "\\:"))));
    }
    text += "    )\n    if (( CURRENT == 2 )) && [[ ${words[2]} != -* ]]; then\n        \
             _describe command commands\n        return\n    fi\n    case ${words[2]} in\n";
    for command in commands {
        let _ = write!(text, "        {})\n            _arguments -s", command.name);
        for option in &command.options {
            let words = option.choices.join(" ");
            let files = option.takes_file();
            text += &spec(option.names.iter().map(String::as_str), &option.help, &[&option.value], &words, files);
        }
        let operands = match &command.operands {
            Operands::Files => " '*:file:_files'".to_owned(),
            Operands::Words(words) => format!(" '2:command:({})'", words.join(" ")),
            Operands::Nothing => String::new(),
        };
        let _ = write!(text, " \\\n                '1: :'{operands}\n            return\n            ;;\n");
    }
    text += "    esac\n    _arguments";
    for flag in flags() {
        let values: Vec<_> = match flag.set {
            Set::Pair(_) => flag.value.split(' ').collect(),
            _ => vec![flag.value],
        };
        let files = flag.takes_file();
        text += &spec(flag.spellings(), flag.help, &values, &flag.choices().join(" "), files);
    }
    text += "\n}\n\nif [ \"${funcstack[1]}\" = _llama-imatrix ]; then\n    _llama_imatrix \"$@\"\nelse\n    \
             compdef _llama_imatrix llama-imatrix\nfi\n";
    text
}

/// One line of `_arguments` for each spelling.
fn spec<'n>(names: impl Iterator<Item = &'n str>, help: &str, values: &[&str], words: &str, files: bool) -> String {
    let escaped = |text: &str| {
        let mut out = String::new();
        for c in text.chars() {
            if matches!(c, '[' | ']' | ':' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out
    };
    let mut text = String::new();
    for name in names {
        // A star: it may be given again.
        let mut one = format!("*{name}[{}]", escaped(help));
        for value in values.iter().filter(|value| !value.is_empty()) {
            let action = match (words.is_empty(), files) {
                (false, _) => format!("({words})"),
                (true, true) => "_files".to_owned(),
                (true, false) => String::new(),
            };
            let _ = write!(one, ":{}:{action}", escaped(value));
        }
        let _ = write!(text, " \\\n                {}", quoted(&one));
    }
    text
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn zsh_completions_escape_special_characters() {
        let spec = super::spec(["-x"].into_iter(), "a [b]: don't", &["N:M"], "", false);
        assert_eq!(spec, " \\\n                '*-x[a \\[b\\]\\: don'\\''t]:N\\:M:'");
    }
}
