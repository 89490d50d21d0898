//! Models in several files.

/// `PREFIX-00001-of-0000N.gguf`: prefix, which part, how many.
pub(super) fn part_of(path: &str) -> Option<(&str, u32, u32)> {
    let number = |text: &str| text.parse().ok().filter(|_| text.len() == 5 && !text.starts_with('+'));
    let (head, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, index) = head.rsplit_once('-')?;
    Some((prefix, number(index)?, number(count)?)).filter(|&(prefix, _, count)| !prefix.is_empty() && count > 1)
}

pub(super) fn all_parts(url: &str) -> Vec<String> {
    match part_of(url) {
        None => vec![url.to_owned()],
        Some((prefix, _, count)) => (1..=count).map(|i| format!("{prefix}-{i:05}-of-{count:05}.gguf")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_files_are_recognized_by_name() {
        assert_eq!(part_of("a/m-Q8_0-00002-of-00003.gguf"), Some(("a/m-Q8_0", 2, 3)));
        for whole in
            ["m.gguf", "m-00001-of-00001.gguf", "m-1-of-2.gguf", "m-00001-of-00002.bin", "-00001-of-00002.gguf"]
        {
            assert_eq!(part_of(whole), None, "{whole}");
            assert_eq!(all_parts(whole), [whole]);
        }
        assert_eq!(all_parts("h/m-00002-of-00002.gguf"), ["h/m-00001-of-00002.gguf", "h/m-00002-of-00002.gguf"]);
    }
}
