//! Lists of files, which may have commas in their names.

/// Fields separated by commas; quotes keep a comma, two quotes in quotes are one.
pub(super) fn split_csv(row: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_split_at_commas_outside_quotes() {
        assert_eq!(split_csv("a,b"), ["a", "b"]);
        assert_eq!(split_csv(r#""a,b",c"#), ["a,b", "c"]);
        assert_eq!(split_csv(r#""say ""hi""",d"e"#), [r#"say "hi""#, r#"d"e"#]);
        assert_eq!(split_csv(""), [""]);
    }
}
