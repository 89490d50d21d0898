#!/usr/bin/env python3
"""The part of power.sh that loses power: power.py CALLS PROGRAM MODEL TEXT FOLDER [SCENE...].

The model of a disk is that of ALICE (Pillai et al., OSDI 2014), with the weakest promises of a POSIX file system:

- fsync of a file keeps its bytes and its length, and nothing else.
- fsync of a folder keeps its entries: what was created, renamed and removed in it before.
- After a crash everything else may or may not be on the disk, in any order. The bytes of a file since its last fsync may be
  missing, complete, half there, or zeros of the same length. Any subset of a folder's changes since its last fsync may be there.
- A single rename is atomic.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import replay
import scenes
from faults import TEMPORARY

# Changes of a folder that may be lost one without the other; of more than these, only how many of the first there are.
SUBSETS_UP_TO = 5


class Disk:
    """Files and entries, on the disk for certain and since."""

    def __init__(self, before):
        self.names = {name: replay.File(data) for name, data in before.items()}
        self.kept = dict(self.names)
        self.pending = []  # changes of entries: {name: file, or None where it goes}

    def step(self, call):
        change = None
        if call.name == "fsync" and call.path == "":
            self.kept, self.pending = dict(self.names), []
            return
        before = dict(self.names)
        replay.step(self.names, call)
        change = {name: self.names.get(name) for name in before.keys() | self.names.keys() if before.get(name) is not self.names.get(name)}
        if change:
            self.pending.append(change)

    def crashes(self):
        """The files that a crash now may leave."""
        for entries in self.entries():
            shown = {name: file for name, file in entries.items() if not TEMPORARY.search(name) and name != scenes.STDOUT}
            choices = [[(name, data) for data in contents(file)] for name, file in sorted(shown.items())]
            yield from map(dict, itertools.product(*choices))

    def entries(self):
        n = len(self.pending)
        if n <= SUBSETS_UP_TO:
            subsets = itertools.product([False, True], repeat=n)
        else:
            subsets = ([i < first for i in range(n)] for first in range(n + 1))
        for subset in subsets:
            entries = dict(self.kept)
            for change in itertools.compress(self.pending, subset):
                entries.update(change)
            yield {name: file for name, file in entries.items() if file is not None}


def contents(file):
    """What may be in a file: see above."""
    if not file.writes:
        return [bytes(file.data)]
    half = bytearray(file.synced)
    for at, piece in file.writes[: (len(file.writes) + 1) // 2]:
        if at == "size":
            del half[piece:]
        else:
            replay.apply_write(half, at, piece[: (len(piece) + 1) // 2] if len(file.writes) == 1 else piece)
    return list(dict.fromkeys([file.synced, bytes(file.data), bytes(half), bytes(len(file.data))]))


class Judge:
    """Whether the files of a crash are old or new."""

    def __init__(self, scene):
        self.scene = scene
        self.before = {p.name: p.read_bytes() for p in scene.before.iterdir() if p.is_file()}
        self.calls = replay.read_log(scene.clean.log, scene.clean.folder)
        self.versions = replay.versions(self.calls, self.before)
        self.final = {n: d for n, d in scene.clean.files.items() if not TEMPORARY.search(n) and n != scenes.STDOUT}

    def judge(self, files, at_end):
        for name in sorted(files.keys() | self.before.keys() | (self.final.keys() if at_end else set())):
            # A state that was removed last may come back: it resumes to the same matrix.
            comes_back = name.endswith(".state") and name not in self.final
            if at_end and files.get(name) != self.final.get(name) and not comes_back:
                return f"after exit code 0, '{name}' is not the new one"
            if name in files and files[name] not in self.versions[name]:
                return f"'{name}' is neither old nor new ({len(files[name])} bytes)"
            if name not in files and name in self.final:
                return f"'{name}' is gone"
            if name not in files:
                matrix = name.removesuffix(".state")
                if files.get(matrix) != self.final.get(matrix):
                    return f"'{name}' is gone before '{matrix}' is new"
        return None

    def load(self, files, folder):
        """Has the program read what a crash has left; what it finds wrong."""
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        tools = self.scene.tools
        for name in sorted(files):
            if name.endswith((".gguf", ".dat")) and name != "m.gguf" or ".gguf.at_" in name:
                if tools.call(folder, "record", ["--show-statistics", "--in-file", name]) != 0:
                    return f"'{name}' does not load: {errors(tools)}"
            elif name.endswith(".json"):
                json.loads(files[name])
        if "imatrix.gguf.state" in files:
            flags = [flag for flag in self.scene.flags if flag != "--resume"]
            if tools.call(folder, "record", [*flags, "--resume"]) != 0:
                return f"the state does not resume: {errors(tools)}"
            if (folder / "imatrix.gguf").read_bytes() != self.final["imatrix.gguf"]:
                return "the resumed run comes to other bytes"
        return None


def without_syncs(judge):
    """Whether the rules would notice a program that never syncs: else they notice nothing."""
    disk = Disk(judge.before)
    for call in judge.calls:
        if call.name != "fsync":
            disk.step(call)
        if any(judge.judge(files, False) for files in disk.crashes()):
            return True
    return not any(call.name == "rename" for call in judge.calls)


def errors(tools):
    return (tools.work / scenes.ERRORS).read_text(errors="replace").strip()[-300:]


def main():
    calls, program, model, text, work, *only = sys.argv[1:]
    tools = scenes.Tools(calls, program, model, text, work)
    n_states, failures = 0, []
    for scene in scenes.scenes(tools, only):
        judge, seen = Judge(scene), set()
        disk = Disk(judge.before)
        if not without_syncs(judge):
            failures.append(f"{scene.name}: without any fsync the rules find nothing wrong")
        for i in range(len(judge.calls) + 1):
            if i > 0:
                disk.step(judge.calls[i - 1])
            at_end = i == len(judge.calls)
            for files in disk.crashes():
                key = (at_end, *((name, hashlib.sha256(data).digest()) for name, data in sorted(files.items())))
                if key in seen:
                    continue
                seen.add(key)
                wrong = judge.judge(files, at_end) or judge.load(files, Path(work) / f"{scene.name}.crash.{len(seen)}")
                if wrong:
                    last = judge.calls[i - 1] if i else None
                    where = f"after call {i} of {len(judge.calls)} ({last.name} {last.path})" if last else "at the start"
                    failures.append(f"{scene.name}, {where}: {wrong}")
        n_states += len(seen)
        print(f"{scene.name}: {len(seen)} states", flush=True)
    for failure in failures:
        print(failure)
    if failures:
        print(f"{n_states} states, {len(failures)} of them neither old nor new")
        return 1
    print(f"{n_states} states, each loads as old or new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
