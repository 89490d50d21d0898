#!/usr/bin/env python3
"""Reads an importance matrix by the package gguf (llama.cpp's own, on PyPI) and compares every number with our reader's.

    read_gguf.py FILE.gguf DUMP

DUMP is what `interop dump FILE.gguf` printed: chunk count, chunk size and data sets on the first line, then a weight a
line with its counts and the bits of its sums. Exits with 1 at the first difference.
"""

import sys

import numpy as np
from gguf import GGUFReader


def bits(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), dtype=">u4").astype(np.uint32)


def same(what: str, found, want) -> None:
    if not np.array_equal(found, want):
        sys.exit(f"read_gguf: {what}: gguf reads {found}, we read {want}")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reader = GGUFReader(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        head, *rows = file.read().splitlines()

    def field(name: str):
        return reader.get_field(name).contents()

    same("general.type", field("general.type"), "imatrix")
    chunk_count, chunk_size, datasets = head.split("\t")
    same("imatrix.chunk_count", field("imatrix.chunk_count"), int(chunk_count))
    same("imatrix.chunk_size", field("imatrix.chunk_size"), int(chunk_size))
    same("imatrix.datasets", field("imatrix.datasets"), datasets.split("\x1f"))

    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    values = 0
    for row in rows:
        name, counts, sum2, total = row.split("\t")
        for suffix, want in (("in_sum2", bits(sum2)), ("in_sum", bits(total))):
            data = tensors.pop(f"{name}.{suffix}")
            same(f"{name}.{suffix}", data.astype(np.float32).ravel().view(np.uint32), want)
            values += want.size
        same(f"{name}.counts", tensors.pop(f"{name}.counts").ravel().astype(np.int64), np.array([int(n) for n in counts.split(",")]))
        same(f"{name}.stats: its length", tensors.pop(f"{name}.stats").size, len(field("imatrix.stats_schema")))
    same("tensors that we do not know of", sorted(tensors), [])
    print(f"gguf reads {sys.argv[1]}: {len(rows)} weights, {values} values, all equal in bits")


if __name__ == "__main__":
    main()
