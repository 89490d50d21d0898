//! Tokenizes a corpus.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::corpus::{Body, Corpus, Item};
use super::documents::Documents;
use super::error::Error;
use super::shuffle::shuffle;
use super::tokenizer::Tokenizer;

/// Options for tokenizing a corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenOptions {
    /// Parse special tokens in plain texts. Those that a chat template writes are always parsed.
    pub parse_special: bool,
    /// Take items in the random order of this seed.
    pub shuffle: Option<u64>,
    /// Maximum number of tokens. The last item is truncated to fit.
    pub budget: Option<u64>,
}

/// Longer texts, in bytes, are tokenized on the calling thread: its stack is the largest, and llama.cpp recurses over
/// words.
const LONG: usize = 1 << 17;
/// Number of items that are tokenized before the budget is checked again.
const AT_ONCE: usize = 1024;

impl Corpus {
    /// Tokenizes each item separately, with the tokens that the vocabulary puts around a text. If a chat template has
    /// written one of these, it is not added twice. `progress` receives the number of bytes done.
    ///
    /// # Errors
    /// [`Error::Rule`] for a conversation without a template (`template` has the reason), for one that the template
    /// refuses, and for a text that the tokenizer refuses.
    pub fn tokenize(
        &self,
        tokenizer: &impl Tokenizer,
        template: Template<'_>,
        options: &TokenOptions,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<Documents, Error> {
        let mut order: Vec<&Item> = self.items.iter().collect();
        if let Some(seed) = options.shuffle {
            shuffle(&mut order, seed);
        }
        let budget = options.budget.map_or(usize::MAX, |budget| usize::try_from(budget).unwrap_or(usize::MAX));
        let done = AtomicU64::new(0);
        let tokens_of = |item: &&Item| {
            let tokens = self.tokens_of(item, tokenizer, template, options.parse_special);
            let bytes = item.body.n_bytes() as u64;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
            tokens
        };
        let mut documents = Documents::default();
        let mut rest = order.as_slice();
        while !rest.is_empty() && documents.tokens().len() < budget {
            let long = |item: &&Item| item.body.n_bytes() > LONG;
            let n = rest.iter().take(AT_ONCE).position(long).unwrap_or(rest.len().min(AT_ONCE)).max(1);
            let (now, later) = rest.split_at(n);
            rest = later;
            let all: Vec<_> = match now {
                [item] => vec![tokens_of(item)],
                _ => now.par_iter().map(tokens_of).collect(),
            };
            // The error is that of the first item that has one, whatever the order of the threads.
            for tokens in all {
                documents.push(&tokens?);
            }
        }
        documents.truncate(budget);
        Ok(documents)
    }

    fn tokens_of(
        &self,
        item: &Item,
        tokenizer: &impl Tokenizer,
        template: Template<'_>,
        parse_special: bool,
    ) -> Result<Vec<i32>, Error> {
        let failed = |reason: String| Error::Rule(format!("{}: {reason}", self.origin(item)));
        match &item.body {
            Body::Text(text) => tokenizer.tokenize(text, true, parse_special).map_err(failed),
            Body::Conversation(conversation) => {
                let text = self.render(item, conversation, template)?;
                let tokens = tokenizer.tokenize(text.as_bytes(), false, true).map_err(failed)?;
                Ok(with_ends(tokens, tokenizer.leading_bos(), tokenizer.trailing_eos()))
            }
        }
    }

    #[cfg(feature = "chat")]
    fn render(&self, item: &Item, conversation: &super::Conversation, template: Template<'_>) -> Result<String, Error> {
        let (path, line) = self.place(item);
        let template = template.map_err(|reason| no_template(&path, line, reason))?;
        template.render(conversation).map_err(|error| Error::line(&path, line, &error.to_string()))
    }

    #[cfg(not(feature = "chat"))]
    fn render(&self, item: &Item, _: &super::Conversation, _: Template<'_>) -> Result<String, Error> {
        let (path, line) = self.place(item);
        Err(no_template(&path, line, "this was built without the feature 'chat'"))
    }

    fn place(&self, item: &Item) -> (PathBuf, usize) {
        (self.files.get(item.file).map(Into::into).unwrap_or_default(), item.line.unwrap_or(1))
    }
}

fn no_template(path: &Path, line: usize, reason: &str) -> Error {
    Error::line(path, line, &format!("a conversation needs a chat template: {reason}"))
}

/// The template for conversations, or the reason why there is none.
#[cfg(feature = "chat")]
pub type Template<'a> = Result<&'a super::ChatTemplate, &'a str>;
/// This build has no templates.
#[cfg(not(feature = "chat"))]
pub type Template<'a> = Result<&'a std::convert::Infallible, &'a str>;

/// Returns a text's tokens with the vocabulary's BOS and EOS, unless the text already has them.
fn with_ends(mut tokens: Vec<i32>, bos: Option<i32>, eos: Option<i32>) -> Vec<i32> {
    if let Some(bos) = bos.filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    if let Some(eos) = eos.filter(|eos| tokens.last() != Some(eos)) {
        tokens.push(eos);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token per byte. A text with `!` is refused.
    struct Bytes;

    impl Tokenizer for Bytes {
        fn tokenize(&self, text: &[u8], _: bool, _: bool) -> Result<Vec<i32>, String> {
            let refused = text.contains(&b'!').then(|| String::from_utf8_lossy(text).into_owned());
            refused.map_or_else(|| Ok(text.iter().map(|&byte| byte.into()).collect()), Err)
        }

        fn leading_bos(&self) -> Option<i32> {
            None
        }

        fn trailing_eos(&self) -> Option<i32> {
            None
        }
    }

    fn corpus(texts: &[&str]) -> Corpus {
        let item = |text: &&str| Item { file: 0, line: None, body: Body::Text(text.as_bytes().to_vec()) };
        Corpus { files: vec!["a.txt".to_owned()], items: texts.iter().map(item).collect(), ..Corpus::default() }
    }

    #[test]
    fn tokens_are_in_the_order_of_the_texts_up_to_the_budget() {
        let texts = corpus(&["ab", "cde", "f"]);
        for (budget, want) in [(None, "abcdef"), (Some(4), "abcd"), (Some(0), "")] {
            let options = TokenOptions { budget, ..TokenOptions::default() };
            let found = texts.tokenize(&Bytes, Err("there is none"), &options, &|_| {}).unwrap();
            let want: Vec<i32> = want.bytes().map(i32::from).collect();
            assert_eq!(found.tokens(), want, "{budget:?}");
        }
    }

    #[test]
    fn the_first_text_that_is_refused_is_named_on_any_number_of_threads() {
        let texts = corpus(&["ab", "first!", "c", "second!"]);
        for threads in 1..5 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let tokens = || texts.tokenize(&Bytes, Err("there is none"), &TokenOptions::default(), &|_| {});
            let error = pool.install(tokens).unwrap_err().to_string();
            assert!(error.ends_with(": first!"), "{error}");
        }
    }

    #[test]
    fn special_tokens_of_a_template_are_not_added_twice() {
        let (bos, eos) = (Some(1), Some(2));
        assert_eq!(with_ends(vec![1, 5, 2], bos, eos), [1, 5, 2]);
        assert_eq!(with_ends(vec![5], bos, eos), [1, 5, 2]);
        assert_eq!(with_ends(vec![1, 5], None, None), [1, 5]);
        assert_eq!(with_ends(vec![], bos, eos), [1, 2]);
    }
}
