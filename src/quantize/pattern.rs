//! Patterns for names of weights.

/// Returns true if a name matches a pattern of `*` and `?`.
#[must_use]
pub fn name_matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut i, mut j) = (0, 0);
    // Position after the last star in the pattern, and the position in the name to try next.
    let mut star: Option<(usize, usize)> = None;
    while j < n.len() {
        match p.get(i) {
            Some('*') => {
                star = Some((i + 1, j));
                i += 1;
            }
            Some(&c) if c == '?' || c == n[j] => {
                i += 1;
                j += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                i = after;
                j = from + 1;
            }
        }
    }
    p.get(i..).unwrap_or_default().iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::name_matches;

    #[test]
    fn stars_and_question_marks_match_whole_names() {
        for (pattern, name, expected) in [
            ("blk.*.attn_?.weight", "blk.12.attn_q.weight", true),
            ("blk.*.attn_?.weight", "blk.12.attn_qk.weight", false),
            ("output.weight", "blk.0.attn_output.weight", false),
            ("*exps*", "blk.0.ffn_up_exps.weight", true),
            ("*a*b", "xaybzb", true),
            ("*a*b", "xaybzc", false),
            ("a?", "a", false),
            ("*", "", true),
            ("**", "", true),
            // Trying every split would not end.
            ("*a*a*a*a*a*a*a*a*a*a*a*a*b", &"a".repeat(64), false),
        ] {
            assert_eq!(name_matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
