//! An error and its causes as one message.

/// Joins an error and its causes. A cause that the text before it repeats is left out.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).reduce(|all, cause| add(all, &cause)).unwrap_or_default()
}

/// Hints stay behind the causes.
fn add(all: String, cause: &str) -> String {
    if all.contains(cause) {
        return all;
    }
    match all.split_once("\nhint: ") {
        Some((all, hint)) => format!("{all}: {cause}\nhint: {hint}"),
        None => format!("{all}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::describe;

    #[test]
    fn a_cause_is_named_once_and_hints_come_last() {
        let cause = || Err::<(), _>(std::io::Error::from_raw_os_error(2));
        let text = cause().unwrap_err().to_string();
        let error = cause().with_context(|| format!("cannot read 'x': {text}")).context("cannot merge").unwrap_err();
        assert_eq!(describe(&error), format!("cannot merge: cannot read 'x': {text}"));
        let error = cause().context("cannot read 'x'\nhint: name another").unwrap_err();
        assert_eq!(describe(&error), format!("cannot read 'x': {text}\nhint: name another"));
        assert_eq!(describe(&anyhow!("alone")), "alone");
    }
}
