#!/usr/bin/env python3
"""The part of bench-larger.sh that runs the programs in a control group and prints the table. Needs only Python 3.8."""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from bench_common import print_table

CONTEXT = 512
MIB = 1 << 20
KILLED = -9


class Group:
    """A control group of limited memory on a disk of limited speed, of version 1 or 2."""

    def __init__(self, name, device):
        self.device = device
        root = Path("/sys/fs/cgroup")
        controllers = root / "cgroup.controllers"
        self.version = 2 if controllers.exists() and "memory" in controllers.read_text().split() else 1
        if self.version == 2:
            (root / "cgroup.subtree_control").write_text("+memory +io")
            self.memory = self.disk = root / name
        else:
            self.memory, self.disk = root / "memory" / name, root / "blkio" / name
        self.folders = sorted({self.memory, self.disk})
        try:
            for folder in self.folders:
                folder.mkdir()
        except OSError as error:
            sys.exit(f"bench-larger: cannot make a control group: {error}")

    def limit(self, memory, rate):
        """Bytes of memory, and bytes per second of the disk; 0 for no limit."""
        (self.memory / ("memory.max" if self.version == 2 else "memory.limit_in_bytes")).write_text(str(memory))
        if self.version == 2:
            (self.disk / "io.max").write_text(f"{self.device} rbps={rate or 'max'}")
        else:
            (self.disk / "blkio.throttle.read_bps_device").write_text(f"{self.device} {rate}")

    def bytes_read(self):
        """Bytes that the group's processes have had read from the disk, read-ahead by the kernel included."""
        if self.version == 2:
            found = re.search(rf"^{self.device} .*rbytes=(\d+)", (self.disk / "io.stat").read_text(), re.M)
        else:
            found = re.search(rf"^{self.device} Read (\d+)", (self.disk / "blkio.throttle.io_service_bytes").read_text(), re.M)
        return int(found[1]) if found else 0

    def enter(self):
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        for folder in self.folders:
            folder.rmdir()


def disk_of(path):
    """MAJOR:MINOR of the disk that holds a file. The disk of a partition is limited, not the partition."""
    device = path.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if not place.exists():
        sys.exit(f"bench-larger: {path} is not on a block device")
    if (place / "partition").exists():
        place = place.parent
    return (place / "dev").read_text().strip()


class Run:
    """A program's run: seconds and bytes read from the start of the evaluation to the end, or out of memory."""

    def __init__(self, command, work, group):
        self.log = ""
        self.command = [str(part) for part in command]
        begin = bytes_before = None
        with open(work / "stdout", "wb") as out:
            child = subprocess.Popen(self.command, stdout=out, stderr=subprocess.PIPE, cwd=work, text=True, errors="replace",
                                     preexec_fn=group.enter if group else None)
            for line in child.stderr:
                self.log += line
                if "computing over" in line and begin is None:
                    begin, bytes_before = time.monotonic(), group.bytes_read() if group else 0
            child.wait()
        self.out_of_memory = child.returncode == KILLED
        if child.returncode not in (0, KILLED):
            sys.exit(f"bench-larger: status {child.returncode}:\n{self.log[-2000:]}\n{' '.join(self.command)}")
        if not self.out_of_memory and begin is None:
            sys.exit(f"bench-larger: the log does not say when the evaluation begins:\n{self.log[-2000:]}")
        self.seconds = time.monotonic() - begin if begin else 0
        self.read = group.bytes_read() - bytes_before if group and begin else 0

    def sizes(self):
        """The -b and -ub that the log names."""
        found = re.search(r"-b (\d+) -ub (\d+)", self.log)
        if not found:
            sys.exit(f"bench-larger: the log names no -b and -ub:\n{self.log[-2000:]}")
        return int(found[1]), int(found[2])

    def repacking(self):
        """The flag that the program has set, so that the other runs have the same weights."""
        return ["--no-repack"] if "--no-repack: " in self.log else []

    def passes(self):
        """How often the weights are read, by the log."""
        found = re.search(r"read from disk (?:once|(\d+) times)", self.log)
        if not found:
            sys.exit(f"bench-larger: the log does not say how often the weights are read:\n{self.log[-2000:]}")
        return int(found[1] or 1)


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = Path(args.work)

    def run(self, who, model, chunks, flags, group):
        output = self.work / f"{who}.gguf"
        output.unlink(missing_ok=True)
        command = [getattr(self.args, who), "-m", model, "-f", "text.txt", "-t", self.args.threads, "-c", CONTEXT, "--chunks", chunks,
                   "-o", output.name, *flags, *([] if self.args.ppl else ["--no-ppl"])]
        drop(model)
        run = Run(command, self.work, group)
        figures = "out of memory" if run.out_of_memory else f"{run.seconds:8.1f} s {run.read / MIB:10.0f} MiB read"
        print(f"{model.stem:10} {who:9} {' '.join(map(str, flags)):22} {chunks:3} chunks {figures}", file=sys.stderr, flush=True)
        return run

    def same_bytes(self, model, chunks, flags, run):
        """Whether our last file has upstream's bytes. Upstream's, if it ran out of memory, is made outside of the group."""
        if run.out_of_memory:
            self.run("upstream", model, chunks, flags, None)
        return "yes" if sha256(self.work / "ours.gguf") == sha256(self.work / "upstream.gguf") else "NO"

    def row(self, model, share, label, run, chunks, passes, same):
        tokens, size = chunks * CONTEXT, model.stat().st_size
        head = [model.stem, f"{share:g}", label]
        if run.out_of_memory:
            return [*head, str(passes), "out of memory", "", "", same]
        expected = size / (tokens / passes)
        return [*head, str(passes), f"{run.read / tokens / MIB:.2f}", f"{run.read / tokens / expected:.2f}",
                f"{tokens / run.seconds:.1f}", same]

    def rows(self, model, share):
        group = Group(f"imatrix-larger-{os.getpid()}", disk_of(model))
        try:
            group.limit(int(model.stat().st_size * share), int(self.args.rate * 1e6))
            many, few = self.args.chunks, self.args.slow_chunks
            auto = self.run("ours", model, many, ["-ub", "auto"], group)
            n_batch, n_ubatch = auto.sizes()
            repacking = auto.repacking()
            same_flags = ["-b", n_batch, "-ub", n_ubatch, *repacking]
            passes = auto.passes()
            theirs = self.run("upstream", model, many, same_flags, group)
            equal = self.same_bytes(model, many, same_flags, theirs)
            chosen = " ".join(map(str, same_flags))
            yield self.row(model, share, f"ours, -ub auto ({chosen})", auto, many, passes, equal)
            yield self.row(model, share, "upstream, the same flags", theirs, many, passes, "")
            slow = self.run("ours", model, few, ["-ub", 512, *repacking], group)
            default = self.run("upstream", model, few, repacking, group)
            passes = slow.passes()
            equal = self.same_bytes(model, few, repacking, default)
            yield self.row(model, share, " ".join(["ours, -ub 512", *repacking]), slow, few, passes, equal)
            yield self.row(model, share, " ".join(["upstream, default", *repacking]), default, few, passes, "")
        finally:
            group.remove()

    def table(self, models):
        header = ["model", "memory / size", "program", "passes", "MiB read per token", "/ (size / tokens per pass)", "tokens/s",
                  "upstream's bytes"]
        rows = [row for model in models for share in self.args.limits for row in self.rows(model, share)]
        print_table(header, rows)
        rate = f"{self.args.rate:g} MB/s" if self.args.rate else "its own speed"
        print(f"\nFrom the start of the evaluation to the end; {self.args.threads} threads, -c {CONTEXT}, "
              f"{'with' if self.args.ppl else 'without'} perplexity; a disk of {rate}; {self.args.chunks} chunks, "
              f"{self.args.slow_chunks} with -ub 512. One run each.")
        return all(row[-1] != "NO" for row in rows)


def drop(path):
    """Drops the file's pages from the page cache, so that they count for the group that reads them."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--ours", "--upstream", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--limits", type=lambda text: [float(part) for part in text.split(",")], default=[0.5, 0.25])
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--slow-chunks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ppl", action="store_true")
    parser.add_argument("files", nargs="+", type=lambda text: Path(text.partition("=")[2]), metavar="NAME=FILE")
    args = parser.parse_args()
    if not Bench(args).table(args.files):
        sys.exit("bench-larger: the two programs' files are not the same")


if __name__ == "__main__":
    main()
