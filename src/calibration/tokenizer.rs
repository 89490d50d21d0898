/// Makes tokens of texts. With llama.cpp, a model's vocabulary does.
pub trait Tokenizer: Sync {
    /// Returns the tokens of a text, with those that the vocabulary puts around a text. `parse_special`: special tokens
    /// written out in the text are read as themselves. Works on up to `threads` threads, each of which tells `progress` how
    /// many bytes are done.
    ///
    /// # Errors
    /// The reason, for people.
    fn tokenize_text(
        &self,
        text: &[u8],
        parse_special: bool,
        threads: usize,
        progress: &(impl Fn(usize) + Sync),
    ) -> Result<Vec<i32>, String>;

    /// Returns the tokens of a text that a chat template wrote: special tokens are read, and none is put around the text.
    ///
    /// # Errors
    /// The reason, for people.
    fn tokenize_rendered(&self, text: &[u8]) -> Result<Vec<i32>, String>;

    /// Returns the token that begins each text, if there is one.
    fn leading_bos(&self) -> Option<i32>;

    /// Returns the token that ends each text, if there is one.
    fn trailing_eos(&self) -> Option<i32>;
}
