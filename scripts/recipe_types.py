#!/usr/bin/env python3
"""Compares the types of a GGUF file with a recipe: recipe_types.py TYPES FILE"""

import re
import struct
import sys

TYPES = "f32 f16 q4_0 q4_1 - - q5_0 q5_1 q8_0 q8_1 q2_K q3_K q4_K q5_K q6_K q8_K iq2_xxs iq2_xs iq3_xxs iq1_s iq4_nl iq3_s iq2_s iq4_xs i8 i16 i32 i64 f64 iq1_m bf16".split()
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def tensors(path):
    """Yields the name and type of each tensor."""
    with open(path, "rb") as file:

        def read(code):
            return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]

        def text():
            return file.read(read("Q"))

        def skip(kind):
            if kind == 8:
                text()
            elif kind == 9:
                element, count = read("I"), read("Q")
                for _ in range(count):
                    skip(element)
            else:
                file.read(WIDTHS[kind])

        assert file.read(4) == b"GGUF" and read("I") == 3
        n_tensors, n_keys = read("Q"), read("Q")
        for _ in range(n_keys):
            text()
            skip(read("I"))
        for _ in range(n_tensors):
            name = text().decode()
            for _ in range(read("I")):
                read("Q")
            yield name, TYPES[read("I")]
            read("Q")


def main():
    lines = [line.split("=") for line in open(sys.argv[1]).read().split()]
    found = dict(tensors(sys.argv[2]))
    wrong, used = [], 0
    for pattern, expected in lines:
        names = [name for name in found if re.search(pattern, name)]
        used += len(names)
        if len(names) != 1 or found[names[0]] != expected:
            wrong.append(f"{pattern} = {expected}: found {[(name, found[name]) for name in names]}")
    # The dims of norms and biases are what is left.
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong or not used else 0)


if __name__ == "__main__":
    main()
