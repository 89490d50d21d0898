#!/usr/bin/env python3
"""The part of run.sh that runs the programs and prints a table of tokens per second. Needs Python 3.8, and
bench_common.py and imatrix_diff.py in the same folder.

    measure.py --ours PROGRAM --upstream FOLDER --text FILE --work FOLDER [options] MODEL...

    --pairs N          rounds; each round runs every program once, in turn (3)
    --deadline N       start only runs that will end within N seconds from now; the table has the finished measurements
    --results FILE     append each measurement to FILE as a line of JSON
    --cpu              test the script without a GPU: sums by a graph on the CPU

Tokens per second come from the difference of two runs of different length, so loading, tokenizing and the first batch
cancel out. Faster programs need longer runs. The most important measurements run first, so a deadline skips the least
important ones.
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

from bench_common import print_table, sums_off_by

CHUNK = 512


class Memory(threading.Thread):
    """Samples the largest memory use on the GPUs, in MiB."""

    def __init__(self, gpu):
        super().__init__(daemon=True)
        self.gpu, self.peak, self.done = gpu, 0, threading.Event()

    def run(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while self.gpu and not self.done.wait(0.5):
            result = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.peak = max(self.peak, sum(map(int, re.findall(rb"\d+", result.stdout))))


class OutOfTime(Exception):
    """The next run would not end before the deadline."""


class Way:
    """A program with its flags, and the lengths of its two runs in chunks."""

    def __init__(self, name, program, flags, lengths):
        self.name, self.program, self.flags, self.lengths = name, program, flags, lengths


class Measure:
    def __init__(self, args):
        self.args = args
        self.work = Path(args.work)
        self.end = time.monotonic() + args.deadline if args.deadline else float("inf")
        self.layers = ["-ngl", "0"] if args.cpu else ["-ngl", "99"]
        on_device = ["--sum-on", "device"] if args.cpu else []
        fast, slow = ((2, 4), (2, 3)) if args.cpu else ((8, 136), (4, 20))
        upstream = Path(args.upstream) / "llama-imatrix"
        self.upstream = Way("upstream", upstream, [], slow)
        self.one = Way("ours, device, 1 lane", args.ours, ["--lanes", "1", *on_device], fast)
        self.two = Way("ours, device, 2 lanes", args.ours, ["--lanes", "2", *on_device], fast)
        self.host = Way("ours, host, 1 lane", args.ours, ["--lanes", "1", "--sum-on", "host"], slow)
        self.seconds = {}

    def run(self, command, label, out=None):
        expected = self.seconds.get(label, 5.0)
        if time.monotonic() + expected > self.end:
            raise OutOfTime(label)
        memory = Memory(not self.args.cpu)
        memory.start()
        begin = time.monotonic()
        result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.work)
        seconds = time.monotonic() - begin
        memory.done.set()
        memory.join()
        self.seconds[label] = seconds
        errors = result.stderr.decode(errors="replace")
        if result.returncode != 0:
            sys.exit(f"measure: {label} failed, exit code {result.returncode}:\n{errors[-3000:]}\n"
                     f"{' '.join(map(str, command))}")
        said = [line for line in errors.splitlines() if re.search(r"tokens per second|prompt eval time|cannot sum|lanes:", line)]
        print(f"{label:64} {seconds:8.2f} s {memory.peak:8} MiB  {' | '.join(said)[:200]}", file=sys.stderr, flush=True)
        return seconds, memory.peak, result.stdout

    def imatrix(self, way, model, perplexity, round_):
        flags = [] if perplexity else ["--no-ppl"]
        runs = []
        for chunks in way.lengths:
            output = f"{re.sub(r'[^a-z0-9]+', '-', way.name)}.{chunks}.gguf"
            command = [way.program, "-m", model, "-f", self.args.text, "-c", CHUNK, "-b", CHUNK, "-ub", CHUNK, *self.layers,
                       "--chunks", chunks, "-o", output, *flags, *way.flags]
            if way.program == self.args.ours:
                command += ["--state-interval", "0", "-v"]
            runs.append(self.run(command, f"{model.stem}, {way.name}, perplexity {'yes' if perplexity else 'no'}, {chunks} chunks"))
        (short, _, _), (long, peak, out) = runs
        tokens = CHUNK * (way.lengths[1] - way.lengths[0])
        ppl = re.findall(rb"Final estimate: PPL = ([0-9.]+)", runs[0][2])
        return {"tokens_per_second": tokens / (long - short), "peak": peak, "short": short, "long": long,
                "ppl": ppl[0].decode() if ppl else ""}

    def bench(self, model, ubatch):
        command = [Path(self.args.upstream) / "llama-bench", "-m", model, "-p", CHUNK, "-n", 0, "-b", CHUNK, "-ub", ubatch,
                   "-r", 3 if self.args.cpu else 40, "-o", "json", *self.layers]
        seconds, peak, out = self.run(command, f"{model.stem}, llama-bench, -ub {ubatch}")
        return {"tokens_per_second": CHUNK / (json.loads(out)[0]["avg_ns"] / 1e9), "peak": peak}

    def note(self, round_, model, name, perplexity, figures):
        if self.args.results:
            with open(self.args.results, "a") as file:
                file.write(json.dumps({"round": round_, "model": model.stem, "what": name, "perplexity": perplexity, **figures}) + "\n")

    def compare(self, model):
        """Sums of the short runs against sums that are added up exactly."""
        short = self.upstream.lengths[0]
        command = [self.args.ours, "-m", model, "-f", self.args.text, "-c", CHUNK, "-b", CHUNK, "-ub", CHUNK, *self.layers,
                   "--chunks", short, "-o", "exact.gguf", "--no-ppl", "--accumulate", "f64", "--state-interval", "0"]
        self.run(command, f"{model.stem}, exact sums, {short} chunks")
        found = {}
        for way in (self.upstream, self.one, self.two):
            output = f"{model.stem}-{re.sub(r'[^a-z0-9]+', '-', way.name)}.same.gguf"
            command = [way.program, "-m", model, "-f", self.args.text, "-c", CHUNK, "-b", CHUNK, "-ub", CHUNK, *self.layers,
                       "--chunks", short, "-o", output, *way.flags]
            _, _, out = self.run(command, f"{model.stem}, {way.name}, {short} chunks, compared")
            ppl = re.findall(rb"PPL = ([0-9.]+)", out)
            found[way.name] = (sums_off_by("exact.gguf", output, self.work), ppl[0].decode() if ppl else "")
        for name, (apart, ppl) in found.items():
            print(f"{model.stem}, {name}: sums off by {apart}, PPL {ppl}", flush=True)
            self.note(-1, model, name, True, {"off_by": apart, "ppl": ppl})

    def table(self, models):
        figures = {}

        def turn(round_, model, way, perplexity):
            found = self.imatrix(way, model, perplexity, round_)
            figures.setdefault((model.stem, way.name, perplexity), []).append(found)
            self.note(round_, model, way.name, perplexity, found)

        def bench(round_, model):
            found = self.bench(model, CHUNK)
            figures.setdefault((model.stem, "llama-bench", False), []).append(found)
            self.note(round_, model, "llama-bench", False, found)

        try:
            for round_ in range(self.args.pairs):
                for model in models:
                    bench(round_, model)
                    for way in (self.one, self.upstream, self.two):
                        turn(round_, model, way, False)
                if round_ == 0:
                    for model in models:
                        self.compare(model)
                for model in models:
                    for way in (self.one, self.upstream):
                        turn(round_, model, way, True)
                if round_ == 0:
                    for model in models:
                        turn(round_, model, self.host, False)
        except OutOfTime as what:
            print(f"measure: out of time before: {what}", file=sys.stderr)
        finally:
            self.print(figures)

    def print(self, figures):
        rows = []
        median = lambda all_: statistics.median(one["tokens_per_second"] for one in all_)
        for (model, name, perplexity), mine in figures.items():
            speed = median(mine)
            theirs, bench = figures.get((model, "upstream", perplexity)), figures.get((model, "llama-bench", False))
            rows.append([model, name, "yes" if perplexity else "no", str(len(mine)), f"{speed:.0f}",
                         f"{speed / median(theirs):.2f}" if theirs else "", f"{speed / median(bench):.2f}" if bench else "",
                         f"{max(one['peak'] for one in mine)} MiB"])
        print_table(["model", "what", "perplexity", "rounds", "tokens/s", "/ upstream", "/ llama-bench", "peak on the GPUs"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--ours", "--upstream", "--text", "--work"):
        parser.add_argument(name, required=True, type=lambda text: Path(text).resolve())
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--deadline", type=float)
    parser.add_argument("--results", type=lambda text: Path(text).resolve())
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("models", nargs="+", type=lambda text: Path(text).resolve())
    args = parser.parse_args()
    Measure(args).table(args.models)


if __name__ == "__main__":
    main()
