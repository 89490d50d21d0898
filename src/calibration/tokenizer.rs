/// Converts texts to tokens. A model's vocabulary implements this with llama.cpp.
pub trait Tokenizer: Sync {
    /// Returns the tokens of a text. With `around`, adds those that the vocabulary puts around a text. With
    /// `parse_special`, parses special tokens in the text.
    ///
    /// # Errors
    /// The reason, as text.
    fn tokenize(&self, text: &[u8], around: bool, parse_special: bool) -> Result<Vec<i32>, String>;

    /// Returns the token that begins each text, if there is one.
    fn leading_bos(&self) -> Option<i32>;

    /// Returns the token that ends each text, if there is one.
    fn trailing_eos(&self) -> Option<i32>;
}
