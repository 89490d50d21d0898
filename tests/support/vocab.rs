//! Two small real vocabularies, trained here on the words of `text`: `SentencePiece` and byte-level BPE.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::model::ModelFile;
use super::text::WORDS;

/// Token types of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// What `SentencePiece` writes for a space.
const SPM_SPACE: &str = "▁";
/// Characters the `SentencePiece` vocabulary knows as such; all others fall back to bytes.
const SPM_ALPHABET: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-éï▁";

/// Control tokens of the BPE vocabulary, after the bytes and the merges.
const BPE_CONTROL: [&str; 4] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Vocab {
    /// `tokenizer.ggml.model` = "llama": BOS added, a space before the text, bytes for what is unknown.
    Spm,
    /// `tokenizer.ggml.model` = "gpt2" with this `tokenizer.ggml.pre`: no BOS.
    Bpe(&'static str),
}

impl Vocab {
    /// Tokens. Neither a power of two nor a multiple of 64, on purpose.
    pub const fn len(self) -> usize {
        match self {
            Self::Spm => 480,
            Self::Bpe(_) => 464,
        }
    }

    /// Writes the tokenizer's keys.
    pub fn describe(self, model: &mut ModelFile) {
        match self {
            Self::Spm => spm(model),
            Self::Bpe(pre) => bpe(model, pre),
        }
    }
}

/// `<unk> <s> </s>`, 256 bytes, the alphabet, then pieces whose score is their merge's rank.
fn spm(model: &mut ModelFile) {
    let mut rows: Vec<(String, f32, i32)> =
        vec![("<unk>".into(), 0.0, UNKNOWN), ("<s>".into(), 0.0, CONTROL), ("</s>".into(), 0.0, CONTROL)];
    rows.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, BYTE)));
    rows.extend(SPM_ALPHABET.chars().map(|c| (c.to_string(), -1000.0, NORMAL)));

    let room = Vocab::Spm.len() - rows.len();
    let pieces = SPM_MERGES.iter().take(room).map(|merge| merge.concat());
    rows.extend(pieces.enumerate().map(|(rank, piece)| (piece, -(rank as f32), NORMAL)));

    model.set("tokenizer.ggml.model", "llama");
    model.set("tokenizer.ggml.pre", "default");
    model.set("tokenizer.ggml.scores", rows.iter().map(|row| row.1).collect::<Vec<f32>>());
    model.set("tokenizer.ggml.token_type", rows.iter().map(|row| row.2).collect::<Vec<i32>>());
    model.set("tokenizer.ggml.tokens", rows.into_iter().map(|row| row.0).collect::<Vec<String>>());
    model.set("tokenizer.ggml.bos_token_id", 1u32);
    model.set("tokenizer.ggml.eos_token_id", 2u32);
    model.set("tokenizer.ggml.unknown_token_id", 0u32);
    model.set("tokenizer.ggml.add_bos_token", true);
    model.set("tokenizer.ggml.add_eos_token", false);
}

/// 256 bytes as GPT-2 spells them, the merges, the control tokens.
fn bpe(model: &mut ModelFile, pre: &str) {
    let byte_symbol = gpt2_byte_symbols();
    let n_merges = Vocab::Bpe("").len() - byte_symbol.len() - BPE_CONTROL.len();
    let merges = &BPE_MERGES[..n_merges];

    let mut tokens: Vec<String> = byte_symbol.iter().map(char::to_string).collect();
    tokens.extend(merges.iter().map(|merge| merge.concat()));
    let types = [vec![NORMAL; tokens.len()], vec![CONTROL; BPE_CONTROL.len()]].concat();
    let first_control = tokens.len() as u32;
    tokens.extend(BPE_CONTROL.map(String::from));

    model.set("tokenizer.ggml.model", "gpt2");
    model.set("tokenizer.ggml.pre", pre);
    model.set("tokenizer.ggml.tokens", tokens);
    model.set("tokenizer.ggml.token_type", types);
    model.set("tokenizer.ggml.merges", merges.iter().map(|merge| merge.join(" ")).collect::<Vec<String>>());
    model.set("tokenizer.ggml.bos_token_id", first_control);
    model.set("tokenizer.ggml.eos_token_id", first_control + 2);
    model.set("tokenizer.ggml.padding_token_id", first_control);
    model.set("tokenizer.ggml.mask_token_id", first_control + 3);
    model.set("tokenizer.ggml.add_bos_token", false);
}

/// More merges than either vocabulary has room for.
const N_MERGES: usize = 210;

static SPM_MERGES: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| {
    let spell = |word: &&str| format!("{SPM_SPACE}{word}").chars().map(String::from).collect();
    train(WORDS.iter().map(spell).collect(), N_MERGES)
});

static BPE_MERGES: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| {
    let symbols = gpt2_byte_symbols();
    let symbol = |byte: u8| symbols[usize::from(byte)].to_string();
    let spell = |word: &&str| format!(" {word}").bytes().map(symbol).collect();
    train(WORDS.iter().map(spell).collect(), N_MERGES)
});

/// Byte-pair encoding: `n` times the pair of neighbours that is most common becomes a symbol. A word weighs the more
/// the earlier it stands. Pairs that spell a symbol already there are passed over, so that tokens stay distinct.
fn train(mut words: Vec<Vec<String>>, n: usize) -> Vec<[String; 2]> {
    let mut known: BTreeSet<String> = words.iter().flatten().cloned().collect();
    let mut merges = Vec::with_capacity(n);
    while merges.len() < n {
        let mut counts = BTreeMap::<[&str; 2], usize>::new();
        for (rank, word) in words.iter().enumerate() {
            for pair in word.windows(2) {
                *counts.entry([&pair[0], &pair[1]]).or_default() += words.len() - rank;
            }
        }
        counts.retain(|pair, _| !known.contains(&pair.concat()));
        // Of equals the last in order: a rule, so that the vocabulary is the same everywhere.
        let best = counts.iter().max_by_key(|&(pair, count)| (*count, *pair));
        let Some((&[left, right], _)) = best else {
            panic!("only {} of {n} merges to be had from the words", merges.len());
        };
        let merge = [left.to_owned(), right.to_owned()];
        for word in &mut words {
            apply(word, &merge);
        }
        known.insert(merge.concat());
        merges.push(merge);
    }
    merges
}

fn apply(word: &mut Vec<String>, merge: &[String; 2]) {
    let mut i = 0;
    while i + 1 < word.len() {
        if word[i] == merge[0] && word[i + 1] == merge[1] {
            let right = word.remove(i + 1);
            word[i].push_str(&right);
        }
        i += 1;
    }
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
