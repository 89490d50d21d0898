#!/usr/bin/env python3
"""Compares recipes with presets at the same size; called by measure-recipes.sh, which describes the arguments."""

import argparse
import json
import os
import statistics
import subprocess
import sys

PRESETS = "IQ2_XXS IQ2_XS Q2_K IQ3_XXS IQ3_S Q3_K_M IQ4_XS Q4_K_M Q5_K_M Q6_K".split()
# Name, flags of recipe.
KINDS = [
    ("estimate", []),
    ("estimate-no-means", ["--no-means"]),
    ("estimate-no-fuse", ["--no-fuse"]),
    ("measured", ["--sensitivity", "sensitivity.json"]),
    ("measured-no-means", ["--no-means", "--sensitivity", "sensitivity.json"]),
    ("measured-no-fuse", ["--no-fuse", "--sensitivity", "sensitivity.json"]),
]


def run(*command):
    """Runs a command and returns its standard output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-500:]}\n{done.stderr[-1000:]}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser()
    for name in ("--ours", "--upstream", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--kinds", default=",".join(name for name, _ in KINDS))
    parser.add_argument("--rows", default="", help="rows of recipe; all by default")
    parser.add_argument("--chunks", default="", help="chunks of the held-out text; all by default")
    parser.add_argument("--tokens", default="16384", help="tokens per weight of sensitivity")
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    args = parser.parse_args()
    model, calibration, held_out = (os.path.abspath(path) for path in (args.model, args.calibration, args.held_out))
    ours, quantize = args.ours, f"{args.upstream}/llama-quantize"
    os.chdir(args.work)
    results = json.load(open("results.json")) if os.path.exists("results.json") else {}

    if not os.path.exists("imatrix.gguf"):
        run(ours, "-m", model, "-f", calibration, "-c", 512, "--process-output", "--no-ppl", "-o", "imatrix.gguf")
    if "measured" in args.kinds and not os.path.exists("sensitivity.done"):
        run(ours, "sensitivity", model, "imatrix.gguf", "-f", calibration, "--tokens", args.tokens, "-o", "sensitivity.json")
        open("sensitivity.done", "w").close()

    def judge(files):
        """Returns the KL divergence and its error of each file, in one pass over the original."""
        chunks = ["--chunks", args.chunks] if args.chunks else []
        document = json.loads(run(ours, "kld", model, *files, "-f", held_out, "--json", *chunks))
        return [(c["divergence"]["value"], c["divergence"]["error"], c["same_top"]["value"]) for c in document["candidates"]]

    kinds = [(name, flags) for name, flags in KINDS if name in args.kinds.split(",")]
    for preset in args.presets.split(","):
        row = results.setdefault(preset, {})
        if all(name in row for name, _ in kinds):
            continue
        run(quantize, "--imatrix", "imatrix.gguf", model, "preset.gguf", preset)
        size = os.path.getsize("preset.gguf")
        files, predicted = ["preset.gguf"], [None]
        for name, flags in kinds:
            rows = ["--rows", args.rows] if args.rows else ["--exact"]
            document = json.loads(run(ours, "recipe", model, "imatrix.gguf", "--size", size, "--format", "json", "-o", "types.txt", *rows, *flags))
            out = f"{name}.gguf"
            run(quantize, "--imatrix", "imatrix.gguf", "--tensor-type-file", "types.txt", model, out, document["command"][-1])
            if os.path.getsize(out) != document["file_bytes"] or document["file_bytes"] > size:
                sys.exit(f"{preset} {name}: {os.path.getsize(out)} bytes, predicted {document['file_bytes']}, allowed {size}")
            files.append(out)
            predicted.append(document["cost"])
        for file, cost, (value, error, top) in zip(files, predicted, judge(files)):
            row[file.removesuffix(".gguf")] = {"bytes": os.path.getsize(file), "kl": value, "error": error, "top": top, "predicted": cost}
        json.dump(results, open("results.json", "w"), indent=1)
        cells = [f"{name} {row[name]['kl']:.6f} ({100 * (row[name]['kl'] / row['preset']['kl'] - 1):+.0f} %)" for name, _ in kinds]
        print(f"{preset:8} {size:9} bytes, KL {row['preset']['kl']:.6f} | " + " | ".join(cells), flush=True)
    for name, _ in kinds:
        change = [100 * (row[name]["kl"] / row["preset"]["kl"] - 1) for row in results.values() if name in row]
        print(f"{name}: median {statistics.median(change):+.1f} %, best {min(change):+.1f} %, worst {max(change):+.1f} %")


if __name__ == "__main__":
    main()
