//! Byte-level BPE vocabularies of real sizes, in which every token can come up and English takes few.

use std::collections::HashSet;

use super::file::ModelFile;

/// Its words are tokens, as are their beginnings.
const TEXT: &str = include_str!("../../assets/quickstart/calibration.txt");

/// GPT-2's spelling of a space.
const SPACE: char = 'Ġ';

/// Token types of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

const END_OF_TEXT: &str = "<|endoftext|>";

pub(crate) struct Vocab {
    /// Tokens.
    pub(crate) size: usize,
    /// `tokenizer.ggml.pre`.
    pub(crate) pre: &'static str,
}

impl Vocab {
    /// Writes the tokenizer's keys: 256 bytes, the merges, the control token.
    pub(crate) fn describe(&self, model: &mut ModelFile) {
        let mut tokens: Vec<String> = gpt2_byte_symbols().iter().map(char::to_string).collect();
        let words = beginnings(self.size - tokens.len() - 1);
        let merges: Vec<String> = words.iter().map(|word| merge(word)).collect();
        tokens.extend(words.iter().map(|word| format!("{SPACE}{word}")));
        tokens.push(END_OF_TEXT.to_owned());
        let end_of_text = tokens.len() - 1;
        let types: Vec<i32> = (0..tokens.len()).map(|i| if i == end_of_text { CONTROL } else { NORMAL }).collect();

        model.set("tokenizer.ggml.model", "gpt2");
        model.set("tokenizer.ggml.pre", self.pre);
        model.set("tokenizer.ggml.tokens", tokens);
        model.set("tokenizer.ggml.token_type", types);
        model.set("tokenizer.ggml.merges", merges);
        model.set("tokenizer.ggml.bos_token_id", end_of_text as u32);
        model.set("tokenizer.ggml.eos_token_id", end_of_text as u32);
        model.set("tokenizer.ggml.padding_token_id", end_of_text as u32);
        model.set("tokenizer.ggml.add_bos_token", false);
    }
}

/// The merge that makes a space and `word`: its beginning, and its last letter. Since all begin at the space, no merge
/// stands in another's way: a word is one token if it is here, else its longest beginning and letters.
fn merge(word: &str) -> String {
    let (head, last) = word.split_at(word.len() - 1);
    format!("{SPACE}{head} {last}")
}

/// `n` words, each after those it begins with: the text's, then all strings of one letter, of two, and so on.
fn beginnings(n: usize) -> Vec<String> {
    let words = TEXT.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let of_text = words.flat_map(|word| (1..=word.len()).map(|end| word[..end].to_owned()));
    let of_letters = (1..).flat_map(|length| (0..26usize.pow(length)).map(move |i| spell(i, length)));
    let mut known = HashSet::new();
    of_text.chain(of_letters).filter(|word| known.insert(word.clone())).take(n).collect()
}

/// `i` in base 26, the lowest digit first, so that the first of each length differ at their beginning.
fn spell(i: usize, length: u32) -> String {
    (0..length).map(|digit| char::from(b'a' + (i / 26usize.pow(digit) % 26) as u8)).collect()
}

/// GPT-2's printable character for each byte: itself where it is printable Latin-1, else the next from U+0100 on.
fn gpt2_byte_symbols() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| {
        if let printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) = byte as u8 {
            return char::from(printable);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or_default()
    })
}
