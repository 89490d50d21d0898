"""The vocabulary: byte-level BPE over the training text, split as llama.cpp's `gpt-2` splits."""

import argparse
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 2048

# Opens every sequence. Also the end-of-text token: llama.cpp's default for a BPE vocabulary
# is id 11, an ordinary token here.
BOS = "<|endoftext|>"
BOS_ID = 0

# The value of tokenizer.ggml.pre whose regular expression `ByteLevel(use_regex=True)` applies.
LLAMA_CPP_PRE = "gpt-2"


def train(text: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS],
        # All 256 bytes, so that any text can be written in it.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(text)], trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE or tokenizer.token_to_id(BOS) != BOS_ID:
        raise ValueError(f"tokenizers {tokenizers.__version__} made another vocabulary than asked for")
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path, help="tokenizer.json")
    args = parser.parse_args()

    tokenizer = train(args.text)
    tokenizer.save(str(args.out))
    text = args.text.read_text(encoding="utf-8")
    print(f"{args.out}: {VOCAB_SIZE} tokens, {len(text) / len(tokenizer.encode(text).ids):.2f} characters a token")


if __name__ == "__main__":
    main()
