#!/usr/bin/env python3
"""The part of faults.sh that makes calls fail: faults.py CALLS PROGRAM MODEL TEXT FOLDER SAMPLE [SCENE...]; SAMPLE 0 for every fault."""

import random
import re
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import replay
import scenes

FAULTS = {
    "open": ["EIO", "ENOSPC", "EINTR", "ENOMEM"],
    "read": ["EIO", "EINTR", "SHORT"],
    "write": ["EIO", "ENOSPC", "EINTR", "SHORT"],
    "fsync": ["EIO", "ENOSPC", "EINTR"],
    "truncate": ["EIO", "ENOSPC", "EINTR"],
    "rename": ["EIO", "ENOSPC", "ENOMEM"],
    "link": ["EIO", "ENOSPC"],
    "unlink": ["EIO"],
    "mmap": ["ENOMEM", "EIO"],
}
SAID = re.compile(r"Input/output error|No space left|Interrupted|Cannot allocate|ut of memory|os error \d+")
TEMPORARY = re.compile(r"^\.|\.lock$|\.tmp$")
WORKERS = 2


class Expected:
    """What a scene's files may be after a fault."""

    def __init__(self, scene):
        self.scene = scene
        self.before = {p.name: p.read_bytes() for p in scene.before.iterdir() if p.is_file()}
        calls = replay.read_log(scene.clean.log, scene.clean.folder)
        self.counts = Counter(call.name for call in calls)
        self.versions = replay.versions(calls, self.before)
        self.final = {name: data for name, data in scene.clean.files.items() if not TEMPORARY.search(name)}

    def judge(self, ended):
        """Nothing, or a kind of failure and what was found."""
        files = {name: data for name, data in ended.files.items() if not TEMPORARY.search(name)}
        for name in sorted(set(files) | set(self.before)):
            failure = self.judge_file(name, files)
            if failure:
                return "lost", failure
        if ended.code >= 128:
            return "crashed", f"signal {ended.code - 128}"
        if ended.code == 0:
            for name, data in self.final.items():
                if files.get(name) != data:
                    return "silent", f"exit code 0, and '{name}' is not what it should be"
            for name in files.keys() - self.final.keys():
                if f"{name}'" not in ended.errors:
                    return "silent", f"exit code 0, and '{name}' stays without a word"
            return None
        errors = [line for line in ended.errors.splitlines() if line.startswith(("error: ", "error:"))]
        if not errors:
            return "silent", f"exit code {ended.code} and no error: {ended.errors[-200:]!r}"
        named = any(f"'{name}" in line or f"{name}:" in line for name in self.versions for line in errors)
        if not (named or any(SAID.search(line) for line in errors)):
            return "silent", f"the error names neither file nor cause: {errors[-1]}"
        return None

    def judge_file(self, name, files):
        if name == scenes.STDOUT:
            return None
        if name in files:
            allowed = self.versions.get(name, [])
            return None if files[name] in allowed or name not in self.final and name not in self.before else f"'{name}' is neither old nor new"
        if name in self.final:
            return f"'{name}' is gone"
        # A state that a run removes at its end: its matrix must be there.
        matrix = name.removesuffix(".state")
        return None if files.get(matrix) == self.final.get(matrix) else f"'{name}' is gone before '{matrix}' is new"


def plan(expected, sample, rng):
    """The faults of a scene: each call, each error."""
    every = [
        (call, n, fault)
        for call, count in sorted(expected.counts.items())
        for n in range(1, count + 1)
        for fault in FAULTS.get(call, [])
    ]
    return every if not sample or len(every) <= sample else rng.sample(every, sample)


def main():
    calls, program, model, text, work, sample, *only = sys.argv[1:]
    tools = scenes.Tools(calls, program, model, text, work)
    rng, totals, n_calls = random.Random(1), Counter(), 0
    failures = []
    for scene in scenes.scenes(tools, only):
        expected = Expected(scene)
        faults = plan(expected, int(sample), rng)
        n_calls += sum(expected.counts.values())

        def inject(fault, scene=scene, expected=expected):
            call, n, error = fault
            folder = Path(work) / f"{scene.name}.{call}.{n}.{error}"
            try:
                ended = scene.run(f"{call}:{n}:{error}", folder)
            except Exception as error:  # a run that hangs is a failure of its own
                return fault, ("hung", str(error)), ""
            path = next((line.split("\t")[1] for line in ended.log.read_text().splitlines() if line.startswith("fault\t")), "")
            verdict = expected.judge(ended)
            if verdict is None:
                shutil.rmtree(folder)
                ended.log.unlink()
            return fault, verdict, path

        found = Counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            for (call, n, error), verdict, path in pool.map(inject, faults):
                found["faults" if path else "not reached"] += 1
                if verdict:
                    found[verdict[0]] += 1
                    name = Path(path).name if path else "not reached"
                    failures.append(f"{verdict[0]}: {scene.name}, {call} {n} of {expected.counts[call]} ({name}) {error}: {verdict[1]}")
        totals.update(found)
        print(f"{scene.name}: {found['faults']} faults in {sum(expected.counts.values())} system calls", flush=True)
    for failure in failures:
        print(failure)
    bad = ", ".join(f"{totals[kind]} {kind}" for kind in ("crashed", "hung", "not reached") if totals[kind])
    print(f"{totals['faults']} faults in {n_calls} system calls, {totals['lost']} lost, {totals['silent']} silent{', ' + bad if bad else ''}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
