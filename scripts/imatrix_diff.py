#!/usr/bin/env python3
"""Compares two imatrix files, GGUF or legacy .dat, tensor by tensor.

    imatrix_diff.py A B [--bound X]

Prints the differences, and the largest relative difference of any number. Exits with 0 if the files have the same bytes,
or differ only in numbers and by no more than the bound; with 1 if they differ; with 2 if one cannot be read.

The relative difference of two numbers a and b is |a - b| / max(|a|, |b|), except in `.in_sum`, where positive and
negative activations cancel: there it is |a - b| over the largest sum of the matrix. Equal bits, including NaN, are no
difference; NaN and a number differ infinitely.

Needs only Python 3.8.
"""

import argparse
import math
import struct
import sys
from array import array
from pathlib import Path

GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
GGUF_STRING, GGUF_ARRAY = 8, 9
GGML_TYPE_F32 = 0
LIMIT = 1 << 32


class Unreadable(Exception):
    """Not an imatrix file, or a truncated one."""


class Cursor:
    """Reads little-endian values, never past the end."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n):
        if n < 0 or self.at + n > len(self.data):
            raise Unreadable(f"{n} bytes wanted at {self.at}, {len(self.data) - self.at} left")
        piece = self.data[self.at : self.at + n]
        self.at += n
        return piece

    def one(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, code="Q"):
        n = self.one(code)
        if not 0 <= n < LIMIT:
            raise Unreadable(f"a count of {n} at {self.at}")
        return n

    def string(self, code="Q"):
        return self.take(self.count(code)).decode("utf-8", "surrogateescape")

    def floats(self, n):
        values = array("f")
        values.frombytes(self.take(4 * n))
        if sys.byteorder == "big":
            values.byteswap()
        return values


class Imatrix:
    """`fields`: key -> value; `tensors`: name -> (dimensions, values); both in the file's order."""

    def __init__(self):
        self.fields = {}
        self.tensors = {}

    @staticmethod
    def load(path):
        data = Path(path).read_bytes()
        return _read_gguf(data) if data[:4] == b"GGUF" else _read_dat(data)


def _read_value(cursor, kind):
    if kind in GGUF_SCALARS:
        return cursor.one(GGUF_SCALARS[kind])
    if kind == GGUF_STRING:
        return cursor.string()
    if kind == GGUF_ARRAY:
        inner, n = cursor.one("I"), cursor.count()
        return [_read_value(cursor, inner) for _ in range(n)]
    raise Unreadable(f"value type {kind}")


def _read_gguf(data):
    cursor = Cursor(data)
    cursor.take(4)
    found = Imatrix()
    found.fields["GGUF version"] = cursor.one("I")
    n_tensors, n_fields = cursor.count(), cursor.count()
    for _ in range(n_fields):
        key = cursor.string()
        found.fields[key] = _read_value(cursor, cursor.one("I"))
    infos = []
    for _ in range(n_tensors):
        name = cursor.string()
        dims = [cursor.count() for _ in range(cursor.count("I"))]
        kind, offset = cursor.one("I"), cursor.count()
        if kind != GGML_TYPE_F32:
            raise Unreadable(f"tensor {name} has type {kind}, not F32")
        infos.append((name, dims, offset))
    alignment = found.fields.get("general.alignment", 32)
    start = (cursor.at + alignment - 1) // alignment * alignment
    for name, dims, offset in infos:
        cursor.at = start + offset
        found.tensors[name] = (dims, cursor.floats(math.prod(dims)))
    return found


def _read_dat(data):
    cursor = Cursor(data)
    found = Imatrix()
    for _ in range(cursor.count("i")):
        name = cursor.string("i")
        found.fields[f"{name} calls"] = cursor.one("i")
        n = cursor.count("i")
        found.tensors[name] = ([n], cursor.floats(n))
    if cursor.at < len(data):
        found.fields["last chunk"] = cursor.one("i")
        found.fields["dataset"] = cursor.string("i")
    return found


def relative(a, b, scale=None):
    """The relative difference of two numbers; `scale` in place of the larger of the two."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / (scale or max(abs(a), abs(b)))


def _tensor_difference(name, a, b):
    if a.tobytes() == b.tobytes():
        return 0.0
    scale = None
    if name.endswith(".in_sum"):
        scale = max((abs(v) for values in (a, b) for v in values if math.isfinite(v)), default=None)
    return max(relative(x, y, scale) for x, y in zip(a, b))


class Difference:
    """`largest`: the largest relative difference, infinite where more than numbers differ; `lines`: what, in words."""

    def __init__(self):
        self.largest = 0.0
        self.lines = []

    def structural(self, line):
        self.largest = math.inf
        self.lines.append(line)

    def numeric(self, name, value):
        self.largest = max(self.largest, value)
        self.lines.append(f"{name}: largest relative difference {value:.3g}")


def compare(path_a, path_b):
    """What differs between two files. Raises OSError and Unreadable."""
    difference = Difference()
    if Path(path_a).read_bytes() == Path(path_b).read_bytes():
        return difference
    a, b = Imatrix.load(path_a), Imatrix.load(path_b)
    for key in {**a.fields, **b.fields}:
        if key not in a.fields or key not in b.fields:
            difference.structural(f"{key}: only in {path_b if key not in a.fields else path_a}")
        elif a.fields[key] != b.fields[key]:
            difference.structural(f"{key}: {a.fields[key]!r} and {b.fields[key]!r}")
    for name in {**a.tensors, **b.tensors}:
        if name not in a.tensors or name not in b.tensors:
            difference.structural(f"{name}: only in {path_b if name not in a.tensors else path_a}")
            continue
        (dims_a, values_a), (dims_b, values_b) = a.tensors[name], b.tensors[name]
        if dims_a != dims_b:
            difference.structural(f"{name}: {dims_a} and {dims_b}")
            continue
        value = _tensor_difference(name, values_a, values_b)
        if value > 0.0:
            difference.numeric(name, value)
    if list(a.tensors) != list(b.tensors) and set(a.tensors) == set(b.tensors):
        difference.structural("the tensors are in another order")
    if list(a.fields) != list(b.fields) and set(a.fields) == set(b.fields):
        difference.structural("the keys are in another order")
    if not difference.lines:
        difference.structural("same contents, other bytes (padding, types of fields or signs of zeros)")
    return difference


def main():
    parser = argparse.ArgumentParser(description="Compares two imatrix files, GGUF or legacy .dat, tensor by tensor.")
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--bound", type=float, default=0.0, metavar="X", help="largest relative difference to accept")
    args = parser.parse_args()
    try:
        difference = compare(args.a, args.b)
    except (OSError, Unreadable) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for line in difference.lines:
        print(line)
    print(f"largest relative difference: {difference.largest:.3g}" if difference.lines else "same bytes")
    return 0 if difference.largest <= args.bound else 1


if __name__ == "__main__":
    sys.exit(main())
