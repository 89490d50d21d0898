"""The text: the King James Bible as Debian's `bible-kjv` prints it, in three parts.

    train.txt        all chapters but the held-out ones, in the order of the book
    calibration.txt  a sample of the training chapters, for llama-imatrix
    held-out.txt     chapters that neither the tokenizer nor the model has seen
"""

import argparse
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_EVERY = 16
CALIBRATION_EVERY = 10

# The books repeat each other (2 Kings 19 is Isaiah 37). A chapter can be held out only if
# almost none of its word sequences of this length occur in another chapter.
SHINGLE_WORDS = 8
MAX_SHARED_SHINGLES = 0.03

VERSE = re.compile(r"(?P<book>\d?[A-Za-z]+)(?P<chapter>\d+):\d+ (?P<text>.+)")

BOOKS = """Genesis,Exodus,Leviticus,Numbers,Deuteronomy,Joshua,Judges,Ruth,1 Samuel,2 Samuel,
1 Kings,2 Kings,1 Chronicles,2 Chronicles,Ezra,Nehemiah,Esther,Job,Psalms,Proverbs,Ecclesiastes,
Song of Solomon,Isaiah,Jeremiah,Lamentations,Ezekiel,Daniel,Hosea,Joel,Amos,Obadiah,Jonah,Micah,
Nahum,Habakkuk,Zephaniah,Haggai,Zechariah,Malachi,Matthew,Mark,Luke,John,Acts,Romans,
1 Corinthians,2 Corinthians,Galatians,Ephesians,Philippians,Colossians,1 Thessalonians,
2 Thessalonians,1 Timothy,2 Timothy,Titus,Philemon,Hebrews,James,1 Peter,2 Peter,1 John,2 John,
3 John,Jude,Revelation""".replace("\n", "").split(",")


@dataclass
class Chapter:
    title: str
    verses: list[str]

    def __str__(self) -> str:
        return "\n".join([self.title, "", *self.verses, "", ""])

    def shingles(self) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z']+", " ".join(self.verses).lower())
        return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def read_chapters() -> list[Chapter]:
    """All chapters, in the order of the book, without verse numbers."""
    # -f prints one verse a line behind its reference; the reference is the whole book.
    command = ["bible", "-f", "gen1:1-rev22:21"]
    printed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)

    titles = iter(BOOKS)
    book, title, chapters = None, None, {}
    for line in printed.stdout.splitlines():
        verse = VERSE.fullmatch(line.strip())
        if verse is None:
            raise ValueError(f"not a verse: {line!r}")
        if verse["book"] != book:
            book, title = verse["book"], next(titles)
        key = (book, verse["chapter"])
        chapter = chapters.setdefault(key, Chapter(f"{title} {verse['chapter']}", []))
        chapter.verses.append(" ".join(verse["text"].split()))
    if next(titles, None) is not None:
        raise ValueError("`bible` did not print every book")
    return list(chapters.values())


def split(chapters: list[Chapter]) -> tuple[list[Chapter], list[Chapter]]:
    """(training, held-out): every HELD_OUT_EVERY-th of the chapters found nowhere else."""
    owners = Counter(shingle for chapter in chapters for shingle in chapter.shingles())

    def found_nowhere_else(chapter: Chapter) -> bool:
        shingles = chapter.shingles()
        shared = sum(owners[shingle] > 1 for shingle in shingles)
        return shared <= MAX_SHARED_SHINGLES * len(shingles)

    fit = [chapter for chapter in chapters if found_nowhere_else(chapter)]
    held_out = fit[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    titles = {chapter.title for chapter in held_out}
    return [chapter for chapter in chapters if chapter.title not in titles], held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the three files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    train, held_out = split(read_chapters())
    calibration = train[CALIBRATION_EVERY // 2 :: CALIBRATION_EVERY]
    for name, part in [("train", train), ("calibration", calibration), ("held-out", held_out)]:
        text = "".join(map(str, part))
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt: {len(part)} chapters, {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
