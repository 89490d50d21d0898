#!/usr/bin/env python3
"""The part of bench-rpc.sh that runs the programs, counts bytes and prints the table. Needs only Python 3.8."""

import argparse
import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from bench_common import print_table, sums_off_by, two_lengths
from rpc_proxy import Proxy

PERPLEXITY = {"no": ["--no-ppl"], "yes": []}


def loopback_bytes():
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])  # received, which on loopback is what was sent
    sys.exit("bench-rpc: no loopback interface in /proc/net/dev")


class Worker:
    def __init__(self, command, threads):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [*command, "--port", str(self.port), "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            if self.process.poll() is not None:
                sys.exit(f"bench-rpc: the worker ended with {self.process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("bench-rpc: the worker does not listen")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = Path(args.work)
        self.short, self.long = args.chunks
        self.workers = {"ours": Worker([args.ours, "worker"], args.threads),
                        "upstream": Worker([args.upstream_server], args.threads)}
        # What the programs connect to: the worker, or a slower way to it.
        self.proxies = {}
        if args.delay or args.rate:
            self.proxies = {who: Proxy(worker.port, args.delay / 1e3, args.rate * 1e6 / 8) for who, worker in self.workers.items()}

    def port(self, who):
        return self.proxies.get(who, self.workers[who]).port

    def counts(self, who):
        """Round trips, bytes, and both per command, so far; of bytes alone without a proxy."""
        return self.proxies[who].counts.snapshot() if self.proxies else (0, loopback_bytes(), Counter(), Counter())

    def run(self, who, model, chunks, flags):
        command = [getattr(self.args, who), "-m", model, "-f", "text.txt", "-c", 512, "-b", 512, "-ub", 512, "-t", 1,
                   "--rpc", f"127.0.0.1:{self.port(who)}", "-ngl", 99, "--chunks", chunks, "-o", f"{who}.gguf", *flags]
        worker = self.workers[who].process.pid
        before, begin, worker_before = self.counts(who), time.monotonic(), cpu_seconds(worker)
        with open(self.work / "log", "w+b") as log:
            child = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=self.work)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = status  # reaped here, not by subprocess
            if status != 0:
                log.seek(0)
                sys.exit(f"bench-rpc: {who} failed:\n{log.read().decode(errors='replace')[-2000:]}")
        seconds = time.monotonic() - begin
        trips, sent, by_command, commands = (now - then for now, then in zip(self.counts(who), before))
        if self.args.cpu:
            seconds = usage.ru_utime + usage.ru_stime + cpu_seconds(worker) - worker_before
        print(f"{Path(model).stem:12} {who:9} {chunks:3} chunks {' '.join(flags):9} {seconds:8.2f} s {sent / 1e6:10.1f} MB",
              file=sys.stderr, flush=True)
        return seconds, sent, trips, by_command, commands

    def a_chunk(self, who, model, flags):
        """Seconds and bytes: the difference of two lengths. Loading the model is in both."""
        short = self.run(who, model, self.short, flags)
        long = self.run(who, model, self.long, flags)
        difference = self.long - self.short
        numbers = [(b - a) / difference for a, b in zip(short[:3], long[:3])]
        # Also negative ones: a connection may end earlier in one of the two.
        by_command, commands = ({name: (b[name] - a[name]) / difference for name in b} for a, b in zip(short[3:], long[3:]))
        return [*numbers, by_command, commands]

    def exact(self, model):
        """Sums added up exactly, without a worker, to hold the others against: f32 ones depend on the order of additions."""
        command = [self.args.ours, "-m", model, "-f", "text.txt", "-c", 512, "-b", 512, "-ub", 512, "-t", self.args.threads,
                   "--chunks", self.long, "-o", "exact.gguf", "--no-ppl", "--accumulate", "f64"]
        subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.work,
                       check=True)

    def table(self, models):
        header = ["model", "perplexity", "MB a chunk, ours", "upstream", "ours / upstream", "s a chunk, ours", "upstream",
                  "ours / upstream"]
        if self.proxies:
            header += ["round trips a chunk, ours", "upstream", "a layer, ours"]
        header += ["sums off by, ours", "upstream"]
        rows = []
        for name, model in models:
            self.exact(model)
            for mode, flags in PERPLEXITY.items():
                turns = [(self.a_chunk("ours", model, flags), self.a_chunk("upstream", model, flags))
                         for _ in range(self.args.pairs)]
                row = [name, mode]
                for index, scale, form in ((1, 1e6, "{:.1f}"), (0, 1, "{:.2f}")):
                    pairs = [(ours[index] / scale, theirs[index] / scale) for ours, theirs in turns]
                    row += [form.format(statistics.median(pair[who] for pair in pairs)) for who in (0, 1)]
                    row.append(f"{statistics.median(ours / theirs for ours, theirs in pairs):.3f}")
                if self.proxies:
                    trips = [statistics.median(pair[who][2] for pair in turns) for who in (0, 1)]
                    row += [f"{trips[0]:.1f}", f"{trips[1]:.1f}", f"{trips[0] / n_layers(model):.2f}"]
                    self.print_commands(name, mode, turns[-1])
                rows.append([*row, *(sums_off_by("exact.gguf", f"{who}.gguf", self.work) for who in self.workers)])
        print_table(header, rows)


    @staticmethod
    def print_commands(name, mode, turn):
        for who, (_, _, _, by_command, commands) in zip(("ours", "upstream"), turn):
            for command, sent in sorted(by_command.items(), key=lambda pair: -pair[1]):
                print(f"{name:12} perplexity: {mode:3} {who:9} {command:18} {commands[command]:8.1f} a chunk {sent / 1e6:10.3f} MB",
                      file=sys.stderr, flush=True)


def n_layers(model):
    """`ARCH.block_count` of a GGUF file: after the key come four bytes of type and four of value."""
    with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(b".block_count")  # a vocabulary may come before it
        if place < 0:
            sys.exit(f"bench-rpc: {model} has no number of layers")
        place += len(".block_count") + 4
        return int.from_bytes(data[place:place + 4], "little")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--ours", "--upstream", "--upstream-server", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0, help="milliseconds per direction")
    parser.add_argument("--rate", type=float, default=0, help="megabits per second per direction")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--chunks", type=two_lengths, default=(2, 6))
    parser.add_argument("models", nargs="+", type=lambda text: text.split("=", 1))
    bench = Bench(parser.parse_args())
    try:
        bench.table(bench.args.models)
    finally:
        for worker in bench.workers.values():
            worker.stop()


if __name__ == "__main__":
    main()
