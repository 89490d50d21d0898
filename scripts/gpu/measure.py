#!/usr/bin/env python3
"""The part of run.sh that runs the programs and prints a table of tokens a second. Needs nothing but Python 3.8
and, beside it, bench_common.py and imatrix_diff.py.

    measure.py --ours PROGRAM --upstream FOLDER --text FILE --work FOLDER [options] MODEL...

    --pairs N          how often each is run, in turn (3)
    --chunks 4,20      the two lengths whose difference counts
    --cpu              without a GPU: sums by a graph on the CPU, to try the script out
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench_common import print_table, sums_off_by, two_lengths

CHUNK = 512


class Memory(threading.Thread):
    """The most memory in use on the GPUs, in MiB, while this runs."""

    def __init__(self, gpu):
        super().__init__(daemon=True)
        self.gpu, self.peak, self.done = gpu, 0, threading.Event()

    def run(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while self.gpu and not self.done.wait(0.2):
            result = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.peak = max(self.peak, sum(map(int, re.findall(rb"\d+", result.stdout))))


class Measure:
    def __init__(self, args):
        self.args = args
        self.work = Path(args.work)
        self.short, self.long = args.chunks
        self.layers = ["-ngl", "0"] if args.cpu else ["-ngl", "99"]
        on_device = ["--sum-on", "device"] if args.cpu else []
        upstream = Path(args.upstream) / "llama-imatrix"
        self.ways = [("upstream", upstream, [])]
        self.ways += [("ours, device, 1 lane", args.ours, ["--lanes", "1", *on_device]),
                      ("ours, device, 2 lanes", args.ours, ["--lanes", "2", *on_device]),
                      ("ours, host, 1 lane", args.ours, ["--lanes", "1", "--sum-on", "host"])]

    def run(self, command, label):
        memory = Memory(not self.args.cpu)
        memory.start()
        begin = time.monotonic()
        result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.work)
        seconds = time.monotonic() - begin
        memory.done.set()
        memory.join()
        if result.returncode != 0:
            sys.exit(f"measure: {label} failed, exit code {result.returncode}:\n"
                     f"{result.stderr.decode(errors='replace')[-2000:]}\n{' '.join(map(str, command))}")
        print(f"{label:60} {seconds:8.2f} s {memory.peak:8} MiB", file=sys.stderr, flush=True)
        return seconds, memory.peak, result.stdout

    def tokens_a_second(self, program, model, label, flags, output):
        """From the difference of two lengths: loading, and the first batch alone, are in both."""
        runs = []
        for chunks in (self.short, self.long):
            command = [program, "-m", model, "-f", self.args.text, "-c", CHUNK, "-b", CHUNK, "-ub", CHUNK, *self.layers,
                       "--chunks", chunks, "-o", output, *flags]
            runs.append(self.run(command, f"{label}, {chunks} chunks"))
        (short, _, _), (long, peak, _) = runs
        return CHUNK * (self.long - self.short) / (long - short), peak

    def bench(self, model):
        command = [Path(self.args.upstream) / "llama-bench", "-m", model, "-p", CHUNK, "-n", 0, "-b", CHUNK, "-ub", CHUNK,
                   "-r", self.long, "-o", "json", *self.layers]
        seconds, peak, out = self.run(command, f"{model.stem} llama-bench")
        return CHUNK / (json.loads(out)[0]["avg_ns"] / 1e9), peak

    def exact(self, model):
        """Sums added up exactly, to hold the others against: f32 ones depend on the order of additions."""
        command = [self.args.ours, "-m", model, "-f", self.args.text, "-c", CHUNK, "-b", CHUNK, "-ub", CHUNK, *self.layers,
                   "--chunks", self.long, "-o", "exact.gguf", "--no-ppl", "--accumulate", "f64"]
        self.run(command, f"{model.stem} exact sums, {self.long} chunks")

    def table(self, models):
        rows = []
        for model in models:
            self.exact(model)
            figures = {}
            order = []
            for pair in range(self.args.pairs):
                turns = [("llama-bench, prompt processing", "", lambda: self.bench(model), None)]
                for mode, flags in (("no", ["--no-ppl"]), ("yes", [])):
                    for name, program, more in self.ways:
                        output = "upstream.gguf" if name == "upstream" else "ours.gguf"
                        turns.append((name, mode, lambda p=program, f=[*flags, *more], n=name, o=output, m=mode:
                                      self.tokens_a_second(p, model, f"{model.stem} {n}, perplexity: {m}", f, o), output))
                for name, mode, turn, output in turns:
                    if (name, mode) not in figures:
                        figures[name, mode] = []
                        order.append((name, mode))
                    speed, peak = turn()
                    apart = sums_off_by("exact.gguf", output, self.work) if output else ""
                    figures[name, mode].append((speed, peak, apart))
            bench = statistics.median(figure[0] for figure in figures[order[0]])
            for name, mode in order:
                mine = figures[name, mode]
                speed = statistics.median(figure[0] for figure in mine)
                theirs = figures.get(("upstream", mode))
                ratio = f"{speed / statistics.median(f[0] for f in theirs):.2f}" if theirs else ""
                peak = max(figure[1] for figure in mine)
                rows.append([model.stem, name, mode, f"{speed:.0f}", ratio, f"{speed / bench:.2f}",
                             f"{peak} MiB" if peak else "", mine[-1][2]])
        header = ["model", "what", "perplexity", "tokens/s", "of upstream", "of llama-bench", "peak on the GPUs",
                  "sums off by, relative"]
        print_table(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--ours", "--upstream", "--text", "--work"):
        parser.add_argument(name, required=True, type=lambda text: Path(text).resolve())
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--chunks", type=two_lengths, default=(4, 20))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("models", nargs="+", type=lambda text: Path(text).resolve())
    args = parser.parse_args()
    Measure(args).table(args.models)


if __name__ == "__main__":
    main()
