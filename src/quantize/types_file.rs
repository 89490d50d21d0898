//! The files that quantizers read: one line per tensor, each a regular expression and a type.

use super::Pick;

/// Returns the contents of a file for `llama-quantize --tensor-type-file`.
#[must_use]
pub fn llama_quantize(picks: &[Pick]) -> String {
    picks.iter().map(|pick| line(pick) + "\n").collect()
}

/// Returns the argument of `--custom-q` of `ik_llama.cpp`.
#[must_use]
pub fn ik_llama(picks: &[Pick]) -> String {
    picks.iter().map(line).collect::<Vec<_>>().join(",")
}

fn line(pick: &Pick) -> String {
    format!("{}={}", pattern(&pick.name), pick.dtype)
}

/// Returns a regular expression for exactly this name. `llama-quantize` splits the file at white space, a line at the
/// first `=`, and turns the pattern into lower case: such characters become a dot, which stands for any one.
fn pattern(name: &str) -> String {
    let mut out = String::from("^");
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' | '-' | '/' => out.push(c),
            '.' | '^' | '$' | '|' | '(' | ')' | '[' | ']' | '{' | '}' | '*' | '+' | '?' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            // std::regex works on bytes.
            other => (0..other.len_utf8()).for_each(|_| out.push('.')),
        }
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn patterns_are_anchored_and_take_each_character_literally() {
        for (name, expected) in [
            ("blk.1.attn_q.weight", r"^blk\.1\.attn_q\.weight$"),
            ("a[0]+b*", r"^a\[0\]\+b\*$"),
            ("Blk.A=b c,d", r"^.lk\...b.c.d$"),
            ("é", "^..$"),
        ] {
            assert_eq!(pattern(name), expected, "{name}");
        }
    }
}
