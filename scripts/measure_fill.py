#!/usr/bin/env python3
"""Measures what --fill-experts is worth with little text; called by measure-fill.sh, which describes the arguments."""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys

from measure_common import Failed, Judged, attempt, judge, percent, run


def parse():
    parser = argparse.ArgumentParser()
    for name in ("--ours", "--upstream", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--tokens", default="512,1024,2048,4096,8192", help="tokens of calibration text")
    parser.add_argument("--types", default="IQ2_XXS,IQ2_S,Q2_K,IQ3_XXS")
    parser.add_argument("--methods", default="layer,shown", help="--fill-experts, as METHOD or METHOD:TOKENS for --fill-below")
    parser.add_argument("--starts", default="0", help="tokens of the text to skip: each is a sample, and samples are averaged")
    parser.add_argument("--ctx-size", type=int, default=512, help="tokens per chunk of the calibration text")
    parser.add_argument("--chunks", default="", help="chunks of the held-out text; all by default")
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    args = parser.parse_args()
    args.types, args.methods = args.types.split(","), ["none", *args.methods.split(",")]
    args.tokens, args.starts = ([int(n) for n in text.split(",")] for text in (args.tokens, args.starts))
    for n in args.tokens + args.starts:
        if n % args.ctx_size:
            parser.error(f"{n} tokens are no multiple of --ctx-size {args.ctx_size}")
    args.model, args.calibration, args.held_out = map(os.path.abspath, (args.model, args.calibration, args.held_out))
    return args


class Measurement:
    """The matrices and results in the folder of work. Each is made once; a later run continues."""

    def __init__(self, args):
        self.args = args
        self.results = json.load(open("results.json")) if os.path.exists("results.json") else {}
        self.refused = {}
        if not os.path.exists("base.logits"):
            limit = ["--chunks", args.chunks] if args.chunks else []
            run(args.ours, "kld", args.model, "-f", args.held_out, "--save-logits", "base.logits", *limit)

    def matrix(self, name, *flags):
        """Collects a matrix."""
        path = f"{name}.gguf"
        if not os.path.exists(path):
            args = self.args
            attempt(args.ours, "-m", args.model, "-f", args.calibration, "-c", args.ctx_size, "--no-ppl", "-o", path, *flags)
        return path

    def sample(self, start, tokens, method):
        """Collects the matrix of a part of the text; None if the program refuses the method."""
        args = self.args
        name, _, below = method.partition(":")
        flags = ["--chunk", start // args.ctx_size, "--chunks", tokens // args.ctx_size]
        flags += ["--fill-experts", name] if name != "none" else []
        flags += ["--fill-below", below] if below else []
        try:
            return self.matrix(f"{method.replace(':', '-')}-{start}-{tokens}", *flags)
        except Failed as error:
            self.refused[method] = str(error)
            return None

    def unseen(self, matrix):
        """Returns the number of experts without tokens, over all layers."""
        # Exit code 2 says that there are some.
        command = [self.args.ours, "check", self.args.model, matrix, "--format", "json"]
        document = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
        layers = {}
        for group in document["experts"]:
            layers[group["layer"]] = max(layers.get(group["layer"], 0), len(group["unseen"]))
        return sum(layers.values())

    def judged(self, quantizations):
        """Returns the result per (type, matrix). Equal matrices are quantized once; all files are judged in one pass."""
        digests = {matrix: digest(matrix) for _, matrix in quantizations}
        missing = {}
        for type_, matrix in quantizations:
            key = f"{type_} {digests[matrix]}"
            if key not in self.results and key not in missing:
                missing[key] = f"quantized-{len(missing)}.gguf"
                run(f"{self.args.upstream}/llama-quantize", "--imatrix", matrix, self.args.model, missing[key], type_)
        if missing:
            for key, result in zip(missing, judge(self.args.ours, "base.logits", missing.values(), self.args.held_out)):
                self.results[key] = result.to_json()
                os.remove(missing[key])
            json.dump(self.results, open("results.json", "w"))
        return [Judged(**self.results[f"{type_} {digests[matrix]}"]) for type_, matrix in quantizations]


def digest(matrix):
    return hashlib.sha256(open(matrix, "rb").read()).hexdigest()[:16]


def averaged(results):
    """The mean over samples of the calibration text, per chunk of the held-out text."""
    return [sum(values) / len(values) for values in zip(*(result.per_chunk for result in results))]


def cell(per_chunk):
    n = len(per_chunk)
    mean = sum(per_chunk) / n
    error = math.sqrt(sum((x - mean) ** 2 for x in per_chunk) / (n * (n - 1))) if n > 1 else math.nan
    return f"{mean:.5f} ± {1.96 * error:.5f}"


def main():
    args = parse()
    os.chdir(args.work)
    measurement = Measurement(args)
    whole, table = measurement.matrix("whole"), {}
    for tokens in args.tokens:
        samples = {method: [measurement.sample(start, tokens, method) for start in args.starts] for method in args.methods}
        samples = {method: matrices for method, matrices in samples.items() if None not in matrices}
        unseen = [measurement.unseen(matrix) for matrix in samples["none"]]
        for type_ in args.types:
            wanted = [(type_, matrix) for matrices in samples.values() for matrix in matrices] + [(type_, whole)]
            found = dict(zip(wanted, measurement.judged(wanted)))
            per_method = {method: averaged([found[type_, m] for m in matrices]) for method, matrices in samples.items()}
            cells = [type_, f"{tokens}", f"{sum(unseen) / len(unseen):g}"]
            none = per_method["none"]
            for method in args.methods:
                values = per_method.get(method)
                cells.append("refused" if values is None else cell(none) if method == "none" else percent(none, values))
            cells.append(percent(none, found[type_, whole].per_chunk))
            print("| " + " | ".join(cells) + " |", file=sys.stderr, flush=True)
            table[type_, tokens] = cells
    header = ["type", "tokens", "experts unseen", *args.methods, "whole text"]
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for type_ in args.types:
        for tokens in args.tokens:
            print("| " + " | ".join(table[type_, tokens]) + " |")
    for method, reason in measurement.refused.items():
        print(f"\n`--fill-experts {method}` was refused: {reason}")


if __name__ == "__main__":
    main()
