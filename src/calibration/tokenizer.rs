/// Makes tokens of texts. With llama.cpp, a model's vocabulary does.
pub trait Tokenizer: Sync {
    /// Returns the tokens of a text. `around`: with those that the vocabulary puts around a text. `parse_special`: special
    /// tokens written out in the text are read as themselves.
    ///
    /// # Errors
    /// The reason, for people.
    fn tokenize(&self, text: &[u8], around: bool, parse_special: bool) -> Result<Vec<i32>, String>;

    /// Returns the token that begins each text, if there is one.
    fn leading_bos(&self) -> Option<i32>;

    /// Returns the token that ends each text, if there is one.
    fn trailing_eos(&self) -> Option<i32>;
}
