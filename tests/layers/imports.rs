//! The rooms that a source file names.

/// A path in `file` from one room to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// The file, relative to `src/`.
    pub(super) file: String,
    /// Line number, from 1.
    pub(super) line: usize,
    /// The room that has the file.
    pub(super) from: String,
    /// The room that the path leads to.
    pub(super) to: String,
}

/// Returns the paths of `text` that begin at the crate's root, in order.
pub(super) fn imports(file: &str, text: &str) -> Vec<Import> {
    let code = without_tests(&without_comments(text));
    let mut found = Vec::new();
    for (start, _) in code.match_indices("::") {
        if let Some(tail) = tail_from_root(&code[..start], &code[start + 2..], depth(file)) {
            let line = code[..start].matches('\n').count() + 1;
            let rooms = first_names(tail).into_iter().map(str::to_owned);
            let from = file.split('/').next().unwrap_or(file).trim_end_matches(".rs").to_owned();
            found.extend(rooms.map(|to| Import { file: file.to_owned(), line, from: from.clone(), to }));
        }
    }
    found
}

/// Number of modules from the crate's root to that of `file`.
fn depth(file: &str) -> usize {
    file.split('/').count() - usize::from(file.ends_with("/mod.rs"))
}

/// If `before` ends with the keywords that lead to the root, returns what follows them. `depth` times `super` leads there.
fn tail_from_root<'t>(before: &str, after: &'t str, depth: usize) -> Option<&'t str> {
    let word = |text: &str, word: &str| {
        let rest = text.strip_suffix(word)?;
        (!rest.ends_with(|c: char| c.is_alphanumeric() || "_:$'".contains(c))).then_some(())
    };
    let supers = vec!["super"; depth].join("::");
    let at_root = word(before, "crate").or_else(|| word(before, &supers));
    at_root.map(|()| after).filter(|after| !after.starts_with("super"))
}

/// Returns the first name of a path, or of each path of a group.
fn first_names(tail: &str) -> Vec<&str> {
    let name = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let Some(group) = tail.strip_prefix('{') else { return vec![&tail[..name(tail)]] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let path = group[start..i].trim();
                names.extend((!path.is_empty()).then(|| &path[..name(path)]));
                start = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// Removes comments and keeps the lines. A `//` in a string ends its line too: no path follows there.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.find("//").map_or(line, |at| &line[..at])).collect::<Vec<_>>().join("\n")
}

/// Blanks every item under `#[cfg(test)]`: up to its `;`, or to the brace that closes it. Lines stay.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item_end(item);
        kept.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// The end of the item that `text` begins with. rustfmt puts the closing brace under the item's first letter.
fn item_end(text: &str) -> usize {
    let mut open = false;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        let line = line.trim_end();
        let closes = |c| line.ends_with(c);
        if open && ["}", "};", "},", ")", "),"].contains(&line.trim_start()) && indent(line) <= indent_of_item(text) {
            return end;
        }
        if !open && (closes(';') || closes(',') || (closes('}') && line.contains('{'))) {
            return end;
        }
        open |= closes('{');
    }
    end
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The indent of the line after the attribute, which is the item's.
fn indent_of_item(text: &str) -> usize {
    text.lines().skip(1).find(|line| !line.trim().is_empty()).map_or(0, indent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(text: &str) -> Vec<String> {
        imports("own/part.rs", text).into_iter().map(|import| import.to).collect()
    }

    #[test]
    fn paths_are_found_wherever_they_are() {
        assert_eq!(
            rooms("use crate::a::B;\npub(crate) use crate::c;\nfn f(x: &crate::d::E) -> crate::f::G {}"),
            ["a", "c", "d", "f"]
        );
        assert_eq!(rooms("use crate::{\n    a::{B, C},\n    d::E,\n};"), ["a", "d"]);
        assert_eq!(rooms("use super::super::a::B;\nuse super::c::D;"), ["a"]);
        assert_eq!(rooms("use other_crate::a;\nuse macro_super::super::b;"), Vec::<String>::new());
    }

    #[test]
    fn comments_and_tests_are_skipped() {
        assert_eq!(rooms("//! [`x`](crate::a)\n/// crate::b\nlet x = 1; // crate::c\nuse crate::d;"), ["d"]);
        let text =
            "use crate::a;\n#[cfg(test)]\nmod tests {\n    use crate::b;\n    fn f() {\n    }\n}\nuse crate::c;\n";
        assert_eq!(rooms(text), ["a", "c"]);
        assert_eq!(imports("own.rs", text)[1].line, 8);
        assert_eq!(
            rooms("#[cfg(test)]\nuse crate::a;\nuse crate::b;\n#[cfg(test)]\nmod tests;\nuse crate::c;"),
            ["b", "c"]
        );
        assert_eq!(
            rooms(
                "impl A {\n    #[cfg(test)]\n    fn f() {\n        crate::b();\n    }\n    fn g() { crate::c::d() }\n}"
            ),
            ["c"]
        );
    }
}
