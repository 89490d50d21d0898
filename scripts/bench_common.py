"""Functions shared by the benchmark scripts. Needs only Python 3.8."""

import re
import subprocess
import sys
from pathlib import Path


def two_lengths(text):
    """`SHORT,LONG`: chunks of the two runs whose difference counts."""
    short, long = map(int, text.split(","))
    if not 0 < short < long:
        raise ValueError
    return short, long


def print_table(header, rows):
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))


def sums_off_by(exact, found, work):
    """The largest relative difference of any sum in the matrix `found` from `exact`, or `?` if they cannot be compared."""
    command = [sys.executable, Path(__file__).with_name("imatrix_diff.py"), exact, found]
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=work)
    sums = re.findall(r"in_sum2?: largest relative difference ([0-9.e+-]+)", result.stdout.decode(errors="replace"))
    return max(sums, key=float, default="0" if result.returncode == 0 else "?")
