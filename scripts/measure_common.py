"""What measure_recipes.py and measure_fill.py share: running programs, KL divergences, and changes with their intervals."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass


class Failed(Exception):
    """A program ended with an error. The text is the line that says why."""


def attempt(*command):
    """Runs a command and returns its standard output; raises Failed."""
    # After a failed assertion ggml would call a debugger.
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        reasons = [line for line in lines if "error:" in line or "failed to" in line or "GGML_ASSERT" in line]
        raise Failed((reasons or lines or [f"exit code {done.returncode}"])[0].strip())
    return done.stdout


def run(*command):
    """The same, but an error ends this program."""
    try:
        return attempt(*command)
    except Failed as error:
        sys.exit(f"{' '.join(map(str, command))}\n{error}")


@dataclass
class Judged:
    """A file's KL divergence from the original: mean, standard error, share of equal likeliest tokens, means per chunk."""

    kl: float
    error: float
    top: float
    per_chunk: list[float]

    def to_json(self):
        return asdict(self)


def judge(ours, reference, files, held_out, chunks=None):
    """Compares files with the original, a model or a file of its logits, in one pass over it."""
    limit = ["--chunks", chunks] if chunks else []
    document = json.loads(run(ours, "kld", reference, *files, "-f", held_out, "--json", *limit))
    return [
        Judged(
            candidate["divergence"]["value"],
            candidate["divergence"]["error"],
            candidate["same_top"]["value"],
            [chunk["divergence"]["value"] for chunk in candidate["per_chunk"]],
        )
        for candidate in document["candidates"]
    ]


def change(before, after):
    """Returns the relative change of a mean, and half its 95 % interval, from values of the same chunks.

    Both files are judged on the same text, so the spread of the text cancels: this is the interval of a ratio of paired means.
    """
    n = len(before)
    mean = sum(before) / n
    ratio = sum(after) / sum(before)
    if n < 2:
        return ratio - 1, math.nan
    squares = sum((b - ratio * a) ** 2 for a, b in zip(before, after))
    return ratio - 1, 1.96 * math.sqrt(squares / (n * (n - 1))) / mean


def percent(before, after):
    """Formats `change`."""
    value, half = change(before, after)
    return f"{100 * value:+.1f} ± {100 * half:.1f} %".replace("-", "−")


def ranks(values):
    """Returns the rank of each value, counted from 0; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for place in order[first : last + 1]:
            found[place] = (first + last) / 2
        first = last + 1
    return found


def spearman(x, y):
    """Returns Spearman's rank correlation."""
    x, y = ranks(x), ranks(y)
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    squares = sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)
    return covariance / math.sqrt(squares) if squares else math.nan
