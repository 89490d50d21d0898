//! URLs as messages show them.

use std::borrow::Cow;

/// A URL without the user and the password in it.
pub(crate) fn masked(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]).into(),
        None => url.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(masked("https://me:secret@host/m.gguf"), "https://***@host/m.gguf");
        assert_eq!(masked("https://host/m@1.gguf"), "https://host/m@1.gguf");
        assert_eq!(masked("user/model"), "user/model");
    }
}
