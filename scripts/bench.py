#!/usr/bin/env python3
"""The part of bench.sh that runs the programs, times them and prints the tables. Needs only Python 3.8."""

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench_common import print_table, two_lengths

MIB = 1 << 20
# Bytes per unit of ru_maxrss.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

CONTEXT = 512
MICRO_BATCH = 512
PERPLEXITY = {"no": ["--no-ppl"], "yes": []}
# One batch at upstream's default flags: 2048 tokens, four chunks of 512.
CHUNKS_A_BATCH = "4"


class Run:
    """A program run once: seconds by the wall's clock and of CPU time, peak memory in MiB, standard output."""

    def __init__(self, command, work, label):
        with open(work / "stdout", "w+b") as out, open(work / "stderr", "w+b") as err:
            begin = time.monotonic()
            child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, cwd=work)
            _, status, usage = os.wait4(child.pid, 0)
            self.seconds = time.monotonic() - begin
            child.returncode = status  # reaped here, not by subprocess
            out.seek(0)
            err.seek(0)
            self.stdout = out.read().decode(errors="replace")
            if status != 0:
                tail = err.read().decode(errors="replace")[-2000:]
                sys.exit(f"bench: {label} failed, status {status}:\n{tail}\n{' '.join(map(str, command))}")
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self.peak = usage.ru_maxrss * MAXRSS_UNIT / MIB
        figures = f"{self.seconds:8.2f} s {self.cpu_seconds:8.2f} s of CPU {self.peak:8.0f} MiB"
        print(f"{label:50} {figures}", file=sys.stderr, flush=True)


class Machine:
    """What else the machine was doing, as far as its load tells."""

    def __init__(self):
        self.loads = []

    def look(self):
        self.loads.append(os.getloadavg()[0])

    def describe(self):
        return (f"{os.cpu_count()} CPUs; load average before each turn, which our own runs are part of: "
                f"{min(self.loads):.1f} to {max(self.loads):.1f}")


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = Path(args.work)
        self.programs = {"ours": [args.ours], "upstream": [Path(args.upstream) / "llama-imatrix"]}
        self.peers = dict(args.peers)
        self.forward_program = Path(args.upstream) / "llama-bench"
        self.machine = Machine()
        self.short, self.long = args.chunks

    def imatrix(self, who, label, *flags):
        output = self.output(who)
        output.unlink(missing_ok=True)
        program = {**self.programs, **self.peers}[who]
        return Run([*program, *flags, "-o", output.name], self.work, f"{label} {who}")

    def output(self, who):
        return self.work / f"{who.replace(' ', '_')}.gguf"

    def same_bytes(self, who="ours"):
        """Whether the file has upstream's bytes, and its digest."""
        sums = [sha256(self.output(one)) for one in (who, "upstream")]
        return sums[0] == sums[1], sums[0]

    def seconds_a_chunk(self, who, model, label, flags):
        """The difference of two lengths: loading, tokenizing and the first save are in both."""
        common = ["-m", model, "-f", "text.txt", "-t", self.args.threads, *flags]
        common += ["-c", CONTEXT, "-b", self.args.batch, "-ub", MICRO_BATCH]
        short, long = (
            self.imatrix(who, f"{label} {plural(chunks, 'chunk')},", *common, "--chunks", chunks)
            for chunks in (self.short, self.long)
        )
        return self.difference(short, long), max(short.peak, long.peak)

    def seconds(self, run):
        return run.cpu_seconds if self.args.cpu else run.seconds

    def difference(self, short, long):
        return (self.seconds(long) - self.seconds(short)) / (self.long - self.short)

    def forward(self, model, label):
        """Seconds a chunk of llama-bench, which warms up by itself and reports the mean of its repetitions."""
        command = [self.forward_program, "-m", model, "-p", CONTEXT, "-n", 0, "-b", CONTEXT, "-ub", MICRO_BATCH]
        command += ["-t", self.args.threads, "-o", "json"]

        def run(repetitions):
            return Run([*command, "-r", repetitions], self.work, f"{label} llama-bench, {plural(repetitions, 'chunk')}")

        if self.args.cpu:  # which it does not report
            return self.difference(run(self.short), run(self.long))
        return json.loads(run(self.long - self.short).stdout)[0]["avg_ns"] / 1e9

    def chunks(self, models):
        header = ["model", "perplexity", "program", "s per chunk", "ours / it", "peak", "upstream's bytes"]
        rows, sums = [], []
        everyone = [*self.programs, *self.peers]
        for name, model in models:
            read_once(model)
            turns = {mode: [] for mode in PERPLEXITY}
            same = {(mode, who): True for mode in PERPLEXITY for who in everyone}
            forwards = []
            for pair in range(1, self.args.pairs + 1):
                self.machine.look()
                forwards.append(self.forward(model, f"{name} {pair}/{self.args.pairs}"))
                for mode, flags in PERPLEXITY.items():
                    label = f"{name} {pair}/{self.args.pairs} perplexity: {mode},"
                    turns[mode].append({who: self.seconds_a_chunk(who, model, label, flags) for who in everyone})
                    for who in everyone:
                        same[mode, who] &= self.same_bytes(who)[0]
                sums.append((name, self.same_bytes()[1]))
            for mode, turn in turns.items():
                ours = [pair["ours"][0] for pair in turn]
                for who in everyone:
                    seconds = [pair[who][0] for pair in turn]
                    peak = max(pair[who][1] for pair in turn)
                    ratio = "" if who == "ours" else spread(ours, seconds)
                    rows.append([name, mode, who, median(seconds), ratio, f"{peak:.0f} MiB",
                                 "yes" if same[mode, who] else "NO" if who == "ours" else "no"])
                rows.append([name, mode, "forward pass alone", median(forwards), spread(ours, forwards), "", ""])
        print_table(header, rows)
        clock = "CPU time of all threads" if self.args.cpu else "Seconds"
        print(f"\nMedians of {plural(self.args.pairs, 'turn')}, in brackets least and most. {clock} per chunk of {CONTEXT} "
              f"tokens on {plural(self.args.threads, 'thread')}, `-b {self.args.batch} -ub {MICRO_BATCH}`: {self.long} chunks "
              f"less {self.short}, over {self.long - self.short}. {self.machine.describe()}.")
        print("\nsha256 of the files of ours, the longer runs:\n")
        for name, digest in sorted(set(sums)):
            print(f"    {digest}  {name}")
        return all(row[-1] != "NO" for row in rows)

    def memory(self, models):
        rows = []
        for name, model in models:
            self.machine.look()
            flags = ["-m", model, "-f", "text.txt", "-t", self.args.threads, "--chunks", CHUNKS_A_BATCH]
            ours, theirs = (self.imatrix(who, f"{name} default flags,", *flags).peak for who in self.programs)
            same, _ = self.same_bytes()
            size = model.stat().st_size / MIB
            rows.append([name, f"{size:.0f} MiB", f"{ours:.0f} MiB", f"{theirs:.0f} MiB", f"{ours / theirs:.2f}",
                         "yes" if same else "NO"])
        print_table(["model", "its file", "peak, ours", "peak, upstream", "ours / upstream", "same bytes"], rows)
        print(f"\nOne run of each, default flags but `-t {self.args.threads} --chunks {CHUNKS_A_BATCH}`: with perplexity, "
              "`-b 2048 -ub 512 -c 512`. Pages of the model's file count where they are mapped.")
        return all(row[-1] == "yes" for row in rows)

    def offline(self, files):
        matrix = files[0][1]
        read_once(matrix)
        legacy = self.work / "matrix.dat"
        Run([*self.programs["ours"], "--in-file", matrix, "-o", legacy], self.work, "matrix.dat")
        commands = {
            "merge with itself": ["--in-file", matrix, "--in-file", matrix],
            "`--show-statistics`": ["--show-statistics", "--in-file", matrix],
            "GGUF to `.dat`": ["--in-file", matrix, "--output-format", "dat"],
            "`.dat` to GGUF": ["--in-file", legacy],
        }
        rows = []
        for name, flags in commands.items():
            pairs, same = [], True
            for pair in range(1, self.args.pairs + 1):
                self.machine.look()
                label = f"{name} {pair}/{self.args.pairs}"
                ours = self.imatrix("ours", label, *flags)
                # Upstream wants the name of a model, which it does not open.
                theirs = self.imatrix("upstream", label, "-m", "none", *flags)
                pairs.append((ours, theirs))
                if "--show-statistics" in flags:
                    same &= ours.stdout == theirs.stdout
                else:
                    same &= self.same_bytes()[0]
            ours, theirs = ([self.seconds(pair[who]) for pair in pairs] for who in (0, 1))
            medians = (f"{statistics.median(values):.2f}" for values in (ours, theirs))
            peaks = (f"{max(pair[who].peak for pair in pairs):.0f} MiB" for who in (0, 1))
            rows.append([name, *medians, spread(theirs, ours), *peaks, "yes" if same else "NO"])
        print_table(["command", "ours, s", "upstream, s", "times as fast", "peak, ours", "peak, upstream", "same"], rows)
        print(f"\nMedians of {plural(self.args.pairs, 'pair')}, in brackets least and most; "
              f"{'CPU time' if self.args.cpu else 'seconds'} of whole runs. The matrix: "
              f"{matrix.stat().st_size / MIB:.0f} MiB, read once before. {self.machine.describe()}.")
        return all(row[-1] == "yes" for row in rows)


def read_once(path):
    """So that the first run does not wait for the disk where the others do not."""
    with open(path, "rb") as file:
        while file.read(16 * MIB):
            pass


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(16 * MIB), b""):
            digest.update(part)
    return digest.hexdigest()


def spread(over, under):
    """The median of the pairs' ratios, least and most."""
    ratios = [a / b for a, b in zip(over, under)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def median(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def plural(n, noun):
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def named_file(text):
    name, _, path = text.partition("=")
    return name, Path(path)


def programs(text):
    """`NAME=PROGRAM [FLAG...]`, several separated by `;`."""
    parts = [part.strip() for part in text.split(";") if part.strip()]
    named = [part.split("=", 1) for part in parts]
    if any(len(pair) != 2 or pair[0] in ("ours", "upstream") for pair in named):
        raise ValueError
    commands = [(name, shlex.split(command)) for name, command in named]
    # Programs run in another folder.
    return [(name, [Path(program).resolve(), *flags]) for name, (program, *flags) in commands]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["chunks", "memory", "offline"], required=True)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--upstream", required=True, help="the folder of upstream's tools")
    parser.add_argument("--work", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--chunks", type=two_lengths)
    parser.add_argument("--batch", type=int, default=CONTEXT, help="tokens per batch")
    parser.add_argument("--peers", type=programs, default=[], metavar="NAME=PROGRAM;...", help="further programs to time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("files", nargs="+", type=named_file, metavar="NAME=FILE")
    args = parser.parse_args()
    if args.pairs < 1:
        parser.error("--pairs is at least 1")
    if args.batch < CONTEXT or args.batch % CONTEXT:
        parser.error(f"--batch is a multiple of {CONTEXT}")
    per_batch = args.batch // CONTEXT
    args.chunks = args.chunks or ((1, 9) if per_batch == 1 else (per_batch, 3 * per_batch))
    if any(chunks % per_batch for chunks in args.chunks):
        parser.error(f"--chunks must be multiples of the {per_batch} chunks per batch")
    same = getattr(Bench(args), args.mode)(args.files)
    if not same:
        sys.exit("bench: the two programs' results are not the same")


if __name__ == "__main__":
    main()
