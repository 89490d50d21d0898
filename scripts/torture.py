#!/usr/bin/env python3
"""The part of torture.sh that kills and damages runs: torture.py PROGRAM FOLDER [N [SEED]]; test models in FOLDER/models."""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

# Name, model, flags. Chunks of 64 tokens, one chunk per batch.
CASES = [
    ("f32, one lane", "llama", "--lanes 1"),
    ("f32, two lanes", "llama", "--lanes 2"),
    ("f64, experts", "qwen3moe", "--accumulate f64 --lanes 2"),
    ("-ofreq and copies", "llama", "-ofreq 7 --save-frequency 40 --lanes 1"),
    ("a chunk discarded", "hostile/llama-nan-token", "--lanes 2"),
    ("f64, hybrid, -ofreq", "lfm2", "--accumulate f64 -ofreq 3 --lanes 2"),
]
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
STAGES = ["write", "fsync", "rename", "end"]
# The beginning of a legacy matrix: the program would not replace a file of another kind.
EARLIER_MATRIX = b"\x01\0\0\0\x0c\0\0\0blk.0.weight an earlier matrix"
DEATHS = 4  # at most, before a run is let go to its end


class Failure(Exception):
    """What must not be."""


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Bench:
    """A folder in which the program runs."""

    user = None

    def __init__(self, program, models, folder):
        self.program, self.models, self.folder = program, models, folder
        folder.mkdir(parents=True, exist_ok=True)

    def command(self, model, flags):
        """A run over the calibration text."""
        text = self.models / "calibration.txt"
        return [f"-m {self.models / model}.gguf -f {text} -c 64 -b 64 -t 2 {flags}"]

    def start(self, args, stop=None):
        """Starts the program; what it prints goes into files, so that a kill loses none of it."""
        env = dict(os.environ)
        env.pop("LLAMA_IMATRIX_TEST_STOP_SAVE", None)
        if stop:
            env["LLAMA_IMATRIX_TEST_STOP_SAVE"] = stop
        words = " ".join(args).split()
        out, err = [open(self.folder / f"{name}.txt", "wb") for name in ("out", "err")]
        with out, err:
            return subprocess.Popen([self.program, *words], cwd=self.folder, env=env, stdin=subprocess.DEVNULL,
                                    stdout=out, stderr=err, user=self.user)

    def run(self, args, stop=None):
        """Runs it to its end: exit code, standard output, standard error."""
        return self.wait(self.start(args, stop))

    def wait(self, process):
        code = process.wait(timeout=300)
        return code, self.printed("out"), self.printed("err")

    def printed(self, name):
        return (self.folder / f"{name}.txt").read_text(errors="replace")

    def ok(self, args):
        code, out, err = self.run(args)
        check(code == 0, f"exit code {code} of {args}\n{err}")
        return out, err

    def fails(self, args, *says):
        """Exit code 1 and one error that says all of this, in its hints too."""
        code, out, err = self.run(args)
        errors = ["error: " + error for error in re.split(r"^error: ", err, flags=re.MULTILINE)[1:]]
        check(code == 1 and len(errors) == 1 and "panicked" not in err, f"exit code {code} of {args}\n{err}")
        for part in says:
            check(part in errors[0], f"no '{part}' in: {errors[0]}")
        return out, err

    def files(self):
        """What runs have left here."""
        return sorted(path.name for path in self.folder.iterdir() if path.name not in ("out.txt", "err.txt"))

    def clear(self):
        for path in self.folder.iterdir():
            path.unlink()


def check(holds, what):
    if not holds:
        raise Failure(what)


def perplexities(out):
    """The running perplexities, by chunk, and the final line."""
    running = {}
    for chunk, value in re.findall(r"\[(\d+)\]([^,\[\]]+),", out):
        check(running.setdefault(int(chunk), value) == value, f"chunk {chunk} has {running[int(chunk)]} and {value}")
    return running, re.findall(r"^Final estimate: .*$", out, re.M)


class Reference:
    """What a run that is never stopped leaves and prints."""

    def __init__(self, bench, model, flags):
        started = time.monotonic()
        out, _ = bench.ok(bench.command(model, flags))
        self.seconds = time.monotonic() - started
        self.files = {name: sha256(bench.folder / name) for name in bench.files()}
        self.running, self.final = perplexities(out)
        self.chunks = len(self.running)
        check(len(self.final) == 1 and self.chunks > 50, f"too short a run: {out}")
        bench.clear()

    def compare(self, bench, out):
        found = {name: sha256(bench.folder / name) for name in bench.files()}
        check(found == self.files, f"files are {found}, expected {self.files}")
        running, final = perplexities(out)
        check(running == self.running, "other running perplexities")
        # A run that is killed at its end, before the matrix is saved, prints it, and so does the one that goes on.
        check(final and set(final) == set(self.final), f"printed {final}, expected {self.final}")


def readable(bench, args):
    """Whether what a killed run has left can be read: the state, and the matrix if there is one."""
    files = bench.files()
    if "imatrix.gguf.state" in files:
        # A run that is to begin anew reads it, and says what it holds.
        bench.fails(args, "'imatrix.gguf.state' holds a run with ", "--resume continues it")
    for name in files:
        if re.fullmatch(r"imatrix\.gguf(\.at_\d+)?", name):
            bench.ok([f"--show-statistics --in-file {name}"])


def kill(bench, args, reference, rng):
    """Runs until it is over or killed. Whether it was killed, and how; what it printed."""
    how = rng.random()
    if how < 0.4:
        stop = f"{rng.choice(STAGES)}:{rng.randint(1, 12)}"
        code, out, err = bench.run(args, stop)
        dead, how = code == -signal.SIGABRT, f"in a save ({stop})"
    else:
        process = bench.start(args)
        time.sleep(rng.uniform(0, 1.1 * reference.seconds))
        process.kill()
        code, out, err = bench.wait(process)
        dead, how = code == -signal.SIGKILL, "at an instant"
    check(dead or code == 0, f"exit code {code}\n{err}")
    return dead, how, out


def killed_and_resumed(bench, references, number, rng):
    """One run of the N. How often it was killed."""
    name, model, flags = CASES[number % len(CASES)]
    reference = references[name]
    args = bench.command(model, f"{flags} --state-frequency {rng.choice([1, 1, 3, 10])}")
    printed, deaths, over, resume = "", [], False, []
    wanted = rng.randint(1, DEATHS)
    while not over and len(deaths) < wanted:
        dead, how, out = kill(bench, args + resume, reference, rng)
        printed, over = printed + out, not dead
        if dead:
            deaths.append(how)
            readable(bench, args)
            resume = ["--resume"]
    if not over:
        out, err = bench.ok(args + ["--resume"])
        printed += out
        there = "resuming from 'imatrix.gguf.state'" in err
        check(there or "nothing to resume" in err, f"does not say what it resumes\n{err}")
    reference.compare(bench, printed)
    bench.clear()
    return deaths


def torture(bench, references, n, rng):
    good, deaths, inside = 0, 0, 0
    for number in range(n):
        try:
            killed = killed_and_resumed(bench, references, number, rng)
            deaths, inside = deaths + len(killed), inside + sum("save" in how for how in killed)
            good += 1
        except Failure as failure:
            print(f"run {number}, {CASES[number % len(CASES)][0]}: {failure}")
            print("left:", bench.files())
            bench.clear()
    print(f"kills: {good} of {n} resumed runs identical, {deaths} kills, {inside} of them inside saves")
    return good == n


def cuts(length):
    """Every 1,000th byte, and near the end (at the very end there may be nothing but padding)."""
    return [*range(0, length, 1000), length - 32]


def truncated(bench):
    """Files that are cut short: each reader gives one error."""
    run = bench.command("llama", "--lanes 1 --state-frequency 3")
    counts = []
    for flags in ("", "--accumulate f64"):
        args = [*run, flags]
        bench.run(args, "end:2")
        state = (bench.folder / "imatrix.gguf.state").read_bytes()
        for length in cuts(len(state)):
            (bench.folder / "imatrix.gguf.state").write_bytes(state[:length])
            bench.fails([*args, "--resume"], "cannot resume from 'imatrix.gguf.state'")
            bench.fails(args, "'imatrix.gguf.state' exists and is not a readable state")
            bench.fails(["merge imatrix.gguf.state -o merged.gguf"], "imatrix.gguf.state: ")
            check((bench.folder / "imatrix.gguf.state").read_bytes() == state[:length], "the state was written to")
        counts.append(("state", len(cuts(len(state)))))
        bench.clear()
    for name in ("imatrix.gguf", "imatrix.dat"):
        bench.ok(bench.command("llama", f"--chunks 3 --no-ppl -o {name}"))
        whole = (bench.folder / name).read_bytes()
        for length in cuts(len(whole)):
            (bench.folder / name).write_bytes(whole[:length])
            bench.fails([f"--show-statistics --in-file {name}"], f"'{name}'")
            bench.fails([f"merge {name} -o merged.gguf"], f"'{name}'")
            bench.fails([f"--in-file {name} -o merged.gguf"], f"'{name}'")
        counts.append((name, len(cuts(len(whole)))))
        bench.clear()
    print("cut files:", ", ".join(f"{name} at {count} lengths" for name, count in counts), "- one error each, no panic")


def twice(bench, reference):
    """A second run on the same output is kept out, and the first is none the worse."""
    args = bench.command("llama", "--lanes 1 --state-frequency 1")
    process = bench.start(args)
    started = time.monotonic()
    while not (bench.folder / "imatrix.gguf.state").exists():
        check(process.poll() is None and time.monotonic() - started < 60, "no state")
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGSTOP)
    other = subprocess.run([bench.program, *" ".join([*args, "--resume"]).split()], cwd=bench.folder,
                           capture_output=True, text=True, check=False)
    check(other.returncode == 1 and "another run is writing 'imatrix.gguf'" in other.stderr, other.stderr)
    os.kill(process.pid, signal.SIGCONT)
    code, out, err = bench.wait(process)
    check(code == 0, err)
    reference.compare(bench, out)
    bench.clear()
    print("two runs at once: the second is refused, the first as ever")


@contextmanager
def small_disk(folder, kib):
    """A tmpfs."""
    folder.mkdir(exist_ok=True)
    options = f"size={kib}k,uid={os.geteuid()},gid={os.getegid()}"
    try:
        mount = subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True,
                               text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError(error) from error
    if mount.returncode != 0:
        raise PermissionError(mount.stderr.strip())
    try:
        yield
    finally:
        subprocess.run([*AS_ROOT, "umount", folder], check=True)


def fill(folder):
    """Takes all that is free."""
    with open(folder / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass


def until(bench, process, text):
    """Waits until the program has logged this."""
    started = time.monotonic()
    while text not in bench.printed("err"):
        check(process.poll() is None, f"it ended before it said '{text}'\n{bench.printed('err')}")
        check(time.monotonic() - started < 60, f"it does not say '{text}'\n{bench.printed('err')}")
        time.sleep(0.001)


class Elsewhere(Bench):
    """Runs whose output is on another disk; what they print is not."""

    def __init__(self, bench, disk):
        super().__init__(bench.program, bench.models, bench.folder)
        self.disk = disk

    def command(self, model, flags):
        return super().command(model, f"-o {self.disk}/imatrix.gguf {flags}")


TRIED_AGAIN = "the run continues and will try again"


def full_disk(bench, reference, disk):
    bench = Elsewhere(bench, disk)
    run = bench.command("llama", "--lanes 1 --state-frequency 1")
    output, state = disk / "imatrix.gguf", disk / "imatrix.gguf.state"
    with small_disk(disk, 40):
        bench.fails(run, "its folder has ", " free, the run writes up to ")
        check(not any(disk.iterdir()), "something was written")
    with small_disk(disk, 1024):
        # Full for a while.
        process = bench.start(run)
        while not state.exists():
            check(process.poll() is None, "no state")
        os.kill(process.pid, signal.SIGSTOP)
        fill(disk)
        os.kill(process.pid, signal.SIGCONT)
        until(bench, process, TRIED_AGAIN)
        before = state.read_bytes()
        (disk / "filler").unlink()
        while state.exists() and state.read_bytes() == before:
            check(process.poll() is None, "the save was not tried again")
        code, out, err = bench.wait(process)
        check(code == 0 and "No space left" in err, f"exit code {code}\n{err}")
        check([path.name for path in disk.iterdir()] == ["imatrix.gguf"], "something stays")
        check(sha256(output) == reference.files["imatrix.gguf"] and perplexities(out)[1] == reference.final, "other bytes")
        # Full at the end.
        output.write_bytes(EARLIER_MATRIX)
        process = bench.start(run)
        while not state.exists():
            check(process.poll() is None, "no state")
        os.kill(process.pid, signal.SIGSTOP)
        fill(disk)
        os.kill(process.pid, signal.SIGCONT)
        code, _, err = bench.wait(process)
        check(code == 1 and "error: cannot save" in err and "No space left" in err, f"exit code {code}\n{err}")
        check(output.read_bytes() == EARLIER_MATRIX, "the earlier file is gone")
        rescued = Path(re.search(r"the matrix is in '([^']+)' instead", err).group(1))
        check(sha256(rescued) == reference.files["imatrix.gguf"], "the rescued matrix is another")
        rescued.unlink()
        (disk / "filler").unlink()
        bench.ok([*run, "--resume"])
        check(sha256(output) == reference.files["imatrix.gguf"] and not state.exists(), "other bytes")
    print("full disk: refused before the run, tried again during it, an error at its end; the same bytes")


def read_only_disk(bench, disk):
    bench = Elsewhere(bench, disk)
    with small_disk(disk, 1024):
        (disk / "imatrix.gguf").write_bytes(EARLIER_MATRIX)
        subprocess.run([*AS_ROOT, "mount", "-o", "remount,ro", disk], check=True)
        bench.fails(bench.command("llama", ""), "cannot write '", "Read-only file system")
        check((disk / "imatrix.gguf").read_bytes() == EARLIER_MATRIX, "the earlier file is gone")
    print("read-only disk: refused before the run")


def read_only_folder(bench, reference, folder):
    """A folder that may not be written to any more. Modes mean nothing to root: it runs as nobody."""
    bench = Elsewhere(bench, folder)
    folder.mkdir()
    if os.geteuid() == 0:
        bench.user = 65534
        os.chown(folder, bench.user, -1)
    run = bench.command("llama", "--lanes 1 --state-frequency 1")
    output, state = folder / "imatrix.gguf", folder / "imatrix.gguf.state"
    folder.chmod(0o555)
    bench.fails(run, "cannot write '", "Permission denied")
    folder.chmod(0o755)
    process = bench.start(run)
    while not state.exists():
        check(process.poll() is None, "no state")
    folder.chmod(0o555)
    code, _, err = bench.wait(process)
    check(code == 1 and TRIED_AGAIN in err and "Permission denied" in err, f"exit code {code}\n{err}")
    rescued = Path(re.search(r"the matrix is in '([^']+)' instead", err).group(1))
    check(sha256(rescued) == reference.files["imatrix.gguf"], "the rescued matrix is another")
    rescued.unlink()
    check(state.exists(), "the state is gone")
    folder.chmod(0o755)
    bench.ok([*run, "--resume"])
    check(sha256(output) == reference.files["imatrix.gguf"], "other bytes")
    check([path.name for path in folder.iterdir()] == ["imatrix.gguf"], "something stays")
    print("read-only folder: refused before the run, an error at its end, resumed to the same bytes")


def main():
    program, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    n = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(10**6)
    rng = random.Random(seed)
    # Where another user may run it, too.
    folder.chmod(0o755)
    program = shutil.copy(program, folder)
    bench = Bench(program, folder / "models", folder / "run")
    references = {}
    for name, model, flags in CASES:
        references[name] = reference = Reference(bench, model, flags)
        print(f"{name}: {reference.chunks} chunks, {reference.seconds:.1f} s, "
              f"SHA-256 {reference.files['imatrix.gguf']}", flush=True)
    print(f"{n} runs, seed {seed}", flush=True)
    good = torture(bench, references, n, rng)
    plain = references["f32, one lane"]
    steps = [lambda: twice(bench, plain), lambda: truncated(bench),
             lambda: full_disk(bench, plain, folder / "disk"), lambda: read_only_disk(bench, folder / "disk"),
             lambda: read_only_folder(bench, plain, folder / "read-only")]
    for step in steps:
        try:
            step()
        except PermissionError as error:
            print(f"skipped, since no tmpfs can be mounted here: {error}")
            # macOS has none.
            good = good and not (os.environ.get("CI") and sys.platform == "linux")
        except Failure as failure:
            good = False
            print(f"FAILED: {failure}")
    print("all as it must be" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
