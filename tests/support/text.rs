//! Calibration text of our own: word salad with sentences, paragraphs, numbers, UTF-8 and special-token markers.

use std::sync::LazyLock;

use super::rng::Rng;

/// Common English words, roughly by how often they occur. The vocabularies are trained on them too.
pub static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| LIST.split_whitespace().collect());

const LIST: &str = "\
    the of and to in that was his he it with is for as had you not be her on at by which have or from this him \
    but all she they were my are me one their so an said them we who would been will no when there if more out \
    up into do any your what has man could other than our some very time upon about may its only now like little \
    then can should made did us such great before must two these see know over much down after first good men \
    own never most old shall day where those came come himself way work life without through thought people \
    house under water long place world might again think hand right still every light between against mountain \
    river question answer remember different nothing everything morning evening winter summer garden letter \
    measure matrix weight layer model quietly suddenly perhaps together café naïve because another country \
    machine language";

/// What calibration files carry besides words: chat markers (one token with `--parse-special`), scripts the vocabulary
/// has only bytes for, code, odd spaces.
const ODDITIES: &[&str] = &[
    "<|im_start|>user",
    "<|im_end|>",
    "</s>",
    "漢字",
    "Ünïcödé",
    "👍🏽",
    "let x = [1, 2, 3];",
    "it's",
    "3.14159",
    "  ",
    "\t",
];

/// Comes once, after four fifths of the text: what happens there happens late in a run.
pub const LATE: char = 'Ж';

/// `words` words of word salad; the same for the same seed. It ends in a newline, as files do.
pub fn text(words: usize, seed: u64) -> String {
    let mut rng = Rng::new(seed);
    let mut out = String::new();
    let mut left = words;
    while left > 0 {
        let length = (4 + rng.below(11)).min(left);
        let late = words / 5;
        if (left - length..left).contains(&late) {
            out.push(LATE);
            out.push(' ');
        }
        left -= length;
        sentence(&mut out, &mut rng, length);
        out.push_str(match rng.below(12) {
            0 => "\n\n",
            1 | 2 => "\n",
            _ => " ",
        });
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn sentence(out: &mut String, rng: &mut Rng, length: usize) {
    for i in 0..length {
        if i > 0 {
            out.push_str(if rng.one_in(9) { ", " } else { " " });
        }
        match word(rng) {
            Some(word) if i == 0 => {
                let (head, tail) = word.split_at(1);
                out.push_str(&head.to_uppercase());
                out.push_str(tail);
            }
            Some(word) => out.push_str(word),
            None if rng.one_in(2) => out.push_str(&rng.below(10_000).to_string()),
            None => out.push_str(ODDITIES[rng.below(ODDITIES.len())]),
        }
    }
    out.push_str([".", ".", ".", "?", "!", ";"][rng.below(6)]);
}

/// A word, common ones more often; sometimes none.
fn word(rng: &mut Rng) -> Option<&'static str> {
    let rank = rng.below(WORDS.len()).min(rng.below(WORDS.len()));
    (!rng.one_in(15)).then_some(WORDS[rank])
}
