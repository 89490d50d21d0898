"""Times `llama-imatrix check` on a split MoE model of 100 GB, made of sparse files, and a matrix of 330 MB.

    python3 scripts/check_large.py PROGRAM [FOLDER]

Prints the best of three runs, and fails if that takes over a second, or if the result is not the one that follows from how
the files were made: layer 7 lacks attn_v, and expert 9 of layer 5 saw no token.
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

LAYERS, EXPERTS, WIDTH, FF, VOCABULARY, FILES = 61, 128, 2048, 1024, 151_936, 5
F32, F16 = 0, 1
LIMIT = 1.0


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def value(v):
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, list):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(string(text) for text in v)
    if isinstance(v, tuple):
        return struct.pack("<I" + v[0], v[2], v[1])
    return struct.pack("<II", 4, v)


def u16(n):
    return ("H", n, 2)


def i32(n):
    return ("i", n, 5)


def write(path, keys, tensors, data=None):
    """Writes a GGUF file. `data(name, bytes)` returns a tensor's bytes; without it the file is a hole after its header."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    header += b"".join(string(key) + value(v) for key, v in keys.items())
    offset, sizes = 0, []
    for name, type_, shape in tensors:
        header += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        header += struct.pack("<IQ", type_, offset)
        size = 4 if type_ == F32 else 2
        for n in shape:
            size *= n
        sizes.append((name, size))
        offset += (size + 31) // 32 * 32
    header += b"\0" * (-len(header) % 32)
    with open(path, "wb") as out:
        out.write(header)
        if data is None:
            out.truncate(len(header) + offset)
            return
        for name, size in sizes:
            out.write(data(name, size) + b"\0" * (-size % 32))


def weights(layer):
    routed = [("ffn_gate_exps", WIDTH, FF), ("ffn_up_exps", WIDTH, FF), ("ffn_down_exps", FF, WIDTH)]
    dense = [("attn_q", WIDTH, 4096), ("attn_k", WIDTH, 512), ("attn_v", WIDTH, 512), ("attn_output", 4096, WIDTH)]
    for kind, row, rows in dense:
        yield f"blk.{layer}.{kind}.weight", [row, rows]
    for kind, row, rows in routed:
        yield f"blk.{layer}.{kind}.weight", [row, rows, EXPERTS]


def make_model(folder):
    tensors = [("token_embd.weight", F16, [WIDTH, VOCABULARY]), ("output.weight", F16, [WIDTH, VOCABULARY])]
    for layer in range(LAYERS):
        tensors.append((f"blk.{layer}.ffn_norm.weight", F32, [WIDTH]))
        tensors.append((f"blk.{layer}.ffn_gate_inp.weight", F32, [WIDTH, EXPERTS]))
        tensors += [(name, F16, shape) for name, shape in weights(layer)]
    keys = {"general.architecture": "qwen3moe", "qwen3moe.block_count": LAYERS, "qwen3moe.expert_count": EXPERTS}
    keys |= {"qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4}
    keys["tokenizer.ggml.tokens"] = [f"token{i}" for i in range(VOCABULARY)]
    keys["split.tensors.count"] = i32(len(tensors))
    per_file = (len(tensors) + FILES - 1) // FILES
    paths = [folder / f"large-{i + 1:05}-of-{FILES:05}.gguf" for i in range(FILES)]
    for i, path in enumerate(paths):
        own = {"split.no": u16(i), "split.count": u16(FILES)}
        write(path, (keys if i == 0 else {}) | own, tensors[i * per_file : (i + 1) * per_file])
    return paths


def make_matrix(path):
    keys = {"general.type": "imatrix", "imatrix.datasets": ["text.txt"], "imatrix.chunk_count": 200, "imatrix.chunk_size": 512}
    tensors = []
    for layer in range(LAYERS):
        for name, shape in weights(layer):
            if name == "blk.7.attn_v.weight":
                continue
            matrices = shape[2] if len(shape) > 2 else 1
            tensors.append((f"{name}.in_sum2", F32, [shape[0], matrices]))
            tensors.append((f"{name}.counts", F32, [1, matrices]))
            tensors.append((f"{name}.in_sum", F32, [shape[0], matrices]))

    def data(name, size):
        if not name.endswith(".counts"):
            return struct.pack("<f", 1.5) * (size // 4)
        counts = [102400.0] * (size // 4)
        if len(counts) > 1 and name.startswith("blk.5."):
            counts[9] = 0.0
        return struct.pack(f"<{len(counts)}f", *counts)

    write(path, keys, tensors, data)


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        folder = pathlib.Path(folder)
        files, matrix = make_model(folder), folder / "matrix.gguf"
        make_matrix(matrix)
        size = sum(path.stat().st_size for path in files)
        best, out = float("inf"), ""
        for _ in range(3):
            begin = time.monotonic()
            ran = subprocess.run([program, "check", files[0], matrix, "--format", "json"], capture_output=True, text=True)
            best, out = min(best, time.monotonic() - begin), ran.stdout
        found = json.loads(out)
        print(f"{size / 1e9:.1f} GB in {FILES} files, a matrix of {matrix.stat().st_size / 1e6:.0f} MB: {best:.2f} s")
        missing = [name for finding in found["findings"] if finding["level"] == "gap" for name in finding["weights"]]
        layers = [(row["layer"], row["unseen"]) for row in found["experts"]]
        if ran.returncode != 2 or "blk.7.attn_v.weight" not in missing or layers != [(5, [9])]:
            sys.exit(f"unexpected result: exit code {ran.returncode}, {missing[:5]}, {layers}")
        if size < 100e9:
            sys.exit(f"the model has {size} bytes, expected 100 GB")
        if best > LIMIT:
            sys.exit(f"took {best:.2f} s, expected at most {LIMIT} s")


main()
