#!/usr/bin/env python3
"""The part of compare-upstream.sh that runs both programs and compares their results. Needs only Python 3.8."""

import argparse
import difflib
import fnmatch
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import imatrix_diff

TIMEOUT_SECONDS = 120
ALLOWED_KINDS = ("file", "stdout", "exit")

# Upstream loses the end of its standard output unless its exit is delayed: see exit-delay.sh. These are the delays in
# milliseconds: if its output still ends before ours, it is run again with the next one.
EXIT_DELAYS = (10, 50, 250, 1000, 1000)

# Upstream prints its estimate of the time left to standard output. It depends on the clock, not on the model.
ETA_LINE = re.compile(r"^(?:[0-9]+ hours )?[0-9.]+ minutes$", re.MULTILINE)
NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|nan|inf)")


class FlagSet:
    """What both programs are called with beside `-m model.gguf -t 1`.

    One thread, since the number of threads changes no bytes, as the case "threads" shows, and llama.cpp's threads spin:
    on a busy machine two of them are forty times slower than one.

    `text`: the file given with -f, or none. `inputs`: files made beforehand by upstream, see `Bench.make_inputs`.
    `fails`: the call is wrong, and both must say so with the same exit code.
    """

    def __init__(self, name, flags, text="calibration.txt", inputs=(), model="model.gguf", fails=False):
        self.name, self.flags, self.text, self.inputs, self.model, self.fails = name, flags.split(), text, inputs, model, fails

    def output(self):
        return self.flags[self.flags.index("-o") + 1] if "-o" in self.flags else "imatrix.gguf"


# The first takes the whole text; the others as many chunks as it takes to show what they are about.
FLAG_SETS = [
    FlagSet("default", "-c 128 -b 128"),
    FlagSet("sequences", "-c 64 -b 256 --chunks 10"),
    FlagSet("sequences-ubatch", "-c 64 -b 256 -ub 96 --chunks 6"),
    FlagSet("ubatch", "-c 128 -b 128 -ub 32 --chunks 5"),
    FlagSet("batch-below-context", "-c 128 -b 64 --chunks 5"),
    FlagSet("threads", "-c 64 -b 64 --chunks 2 -t 2"),
    FlagSet("process-output", "-c 128 -b 128 --process-output --chunks 5"),
    FlagSet("no-ppl", "-c 128 -b 128 --no-ppl --chunks 5"),
    FlagSet("chunks", "-c 64 -b 64 --chunk 2 --chunks 3"),
    FlagSet("no-chunks", "-c 64 -b 64 --chunks 0"),
    FlagSet("dat", "-c 128 -b 128 --output-format dat --chunks 5 -o imatrix.dat"),
    FlagSet("parse-special", "-c 128 -b 128 --parse-special --chunks 5", text="special.txt"),
    FlagSet("in-file", "-c 128 -b 128 --chunks 2 --in-file a.gguf", inputs=["a.gguf"]),
    FlagSet("in-file-dat", "-c 512 -b 512 --chunks 2 --in-file a.dat", inputs=["a.dat"]),
    FlagSet("in-file-dat-of-other-chunks", "-c 128 -b 128 --chunks 2 --in-file a.dat", inputs=["a.dat"]),
    FlagSet("dat-by-suffix", "-c 128 -b 128 --chunks 2 -o imatrix.dat"),
    FlagSet("in-file-written-over", "-c 64 -b 64 --chunks 2 --in-file a.gguf -o a.gguf", inputs=["a.gguf"]),
    FlagSet("save-frequency", "-c 64 -b 64 --chunks 4 --save-frequency 2"),
    FlagSet("output-frequency", "-c 64 -b 64 --chunks 3 -ofreq 1"),
    FlagSet("flash-attention-on", "-c 128 -b 128 --chunks 2 -fa on"),
    FlagSet("flash-attention-off", "-c 128 -b 128 --chunks 2 -fa off"),
    FlagSet("cache-f32", "-c 64 -b 128 --chunks 2 -ctk f32 -ctv f32 -fa off"),
    FlagSet("cache-bf16", "-c 64 -b 128 --chunks 2 -ctk bf16 -ctv bf16 -fa on"),
    FlagSet("rope-scale", "-c 64 -b 128 --chunks 2 --rope-scale 4"),
    FlagSet("yarn", "-c 64 -b 128 --chunks 2 --rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 32 --yarn-beta-fast 2"),
    FlagSet("override-kv", "-c 64 -b 128 --chunks 2 --override-kv tokenizer.ggml.add_bos_token=bool:false"),
    FlagSet("no-repack", "-c 64 -b 128 --chunks 2 -nr -lm none"),
    FlagSet("escape", "-c 64 -b 128 --chunks 2 -e"),
    FlagSet("no-ppl-sequences", "-c 64 -b 256 -ub 96 --chunks 6 --no-ppl"),
    FlagSet("no-ppl-batch-below-context", "-c 128 -b 64 --chunks 5 --no-ppl"),
    FlagSet("prompt", "-c 128 -b 128 -p @PROMPT@", text=None),
    FlagSet("merge", "--in-file a.gguf --in-file b.gguf -o merged.gguf", text=None, inputs=["a.gguf", "b.gguf"]),
    FlagSet("merge-dat", "--in-file a.dat --in-file b.gguf", text=None, inputs=["a.dat", "b.gguf"]),
    FlagSet("convert-to-dat", "--in-file a.gguf --output-format dat -o a.dat", text=None, inputs=["a.gguf"]),
    FlagSet("statistics", "--show-statistics --in-file a.gguf", text=None, inputs=["a.gguf"]),
    FlagSet("statistics-dat", "--show-statistics --in-file a.dat", text=None, inputs=["a.dat"]),
]

# Run on the first model alone: nothing in them depends on it.
ERRORS = [
    FlagSet("error-context-0", "-c 0", fails=True),
    FlagSet("error-short-text", "-c 65536 -b 512", fails=True),
    FlagSet("error-chunk-past-end", "-c 128 -b 128 --chunk 100000", fails=True),
    FlagSet("error-no-model-file", "-c 128", model="missing.gguf", fails=True),
    FlagSet("error-no-text-file", "-c 128", text="missing.txt", fails=True),
    FlagSet("error-unknown-flag", "-c 128 --no-such-flag", fails=True),
    FlagSet("error-bad-number", "-c many", fails=True),
    FlagSet("error-bad-format", "-c 128 --output-format json", fails=True),
    FlagSet("error-in-file-missing", "-c 128 --in-file missing.gguf", fails=True),
    FlagSet("error-in-file-no-imatrix", "-c 128 --in-file calibration.txt", fails=True),
    FlagSet("error-nothing-to-do", "-c 128", text=None, fails=True),
    FlagSet("error-statistics-of-nothing", "--show-statistics", text=None, fails=True),
]


class AllowLine:
    """One line of the list of differences that are known and wanted: PATTERN WHAT BOUND REASON."""

    def __init__(self, number, line):
        fields = line.split(None, 3)
        if len(fields) != 4:
            raise ValueError(f"line {number}: four fields wanted: PATTERN WHAT BOUND REASON")
        self.number, self.line = number, line
        self.pattern, what, bound, self.reason = fields
        self.what = [tuple(item.partition(":")[::2]) for item in what.split(",")]
        for kind, _ in self.what:
            if kind not in ALLOWED_KINDS:
                raise ValueError(f"line {number}: '{kind}' is none of {', '.join(ALLOWED_KINDS)}")
        self.bound = math.inf if bound == "any" else float(bound)
        self.used = False

    def covers(self, case, kind, name, size):
        return (
            fnmatch.fnmatchcase(case, self.pattern)
            and any(k == kind and (not glob or fnmatch.fnmatchcase(name, glob)) for k, glob in self.what)
            and size <= self.bound
        )


def read_allow_list(path):
    lines = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            lines.append(AllowLine(number, line))
    return lines


class Finding:
    """One difference between the two runs of a case."""

    def __init__(self, kind, name, size, detail):
        self.kind, self.name, self.size, self.detail = kind, name, size, detail


class Run:
    """What one program did in its folder."""

    def __init__(self, code, stdout, stderr, files):
        self.code, self.stdout, self.stderr, self.files = code, stdout, stderr, files


def execute(program, arguments, folder, inputs, extra_environment=None):
    environment = {**os.environ, "LC_ALL": "C", "GGML_NO_BACKTRACE": "1", **(extra_environment or {})}
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        code, stdout, stderr = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        code, stdout, stderr = f"over {TIMEOUT_SECONDS} s", late.stdout or b"", late.stderr or b""
    stdout, stderr = (text.decode("utf-8", "replace") for text in (stdout, stderr))
    # Outside of the folder that is compared.
    Path(f"{folder}.stdout").write_text(stdout)
    Path(f"{folder}.stderr").write_text(stderr)
    files = {p.name for p in Path(folder).iterdir() if p.name not in inputs}
    return Run(code, stdout, stderr, files)


def without_clock(stdout):
    return ETA_LINE.sub("T minutes", stdout)


def stops_short(upstream, ours):
    a, b = without_clock(upstream), without_clock(ours)
    return len(a) < len(b) and b.startswith(a)


def compare_stdout(a, b):
    """A finding, or none. The size is that of the largest difference of two numbers, if only numbers differ."""
    a, b = without_clock(a), without_clock(b)
    if a == b:
        return None
    size = math.inf
    if NUMBER.sub("#", a) == NUMBER.sub("#", b):
        pairs = zip(NUMBER.findall(a), NUMBER.findall(b))
        size = max(imatrix_diff.relative(float(x), float(y)) for x, y in pairs)
    lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), "upstream", "ours", lineterm="", n=0))
    shown = [line if len(line) <= 200 else line[:200] + " ..." for line in lines[:12]]
    return Finding("stdout", "", size, "\n".join(shown) or "only the ends of lines differ")


def compare_file(folder, name):
    a, b = (folder / side / name for side in ("upstream", "ours"))
    if a.read_bytes() == b.read_bytes():
        return None
    try:
        difference = imatrix_diff.compare(a, b)
    except imatrix_diff.Unreadable as error:
        return Finding("file", name, math.inf, f"{name}: {error}")
    lines = [f"{name}: {line}" for line in difference.lines]
    more = [f"{name}: {len(lines) - 8} more"] if len(lines) > 8 else []
    return Finding("file", name, difference.largest, "\n".join(lines[:8] + more))


def compare_runs(flag_set, folder, upstream, ours, inputs):
    """Everything in which the two runs differ, and whether the case was what it was meant to be."""
    findings = []
    if upstream.code != ours.code:
        # No line of the list can excuse ours for failing where upstream works, or for failing in another way.
        kind = "exit" if ours.code == 0 else "case"
        findings.append(Finding(kind, "", 0.0, f"exit: upstream {upstream.code}, ours {ours.code}\n{last_line(ours.stderr)}"))
    elif (ours.code != 0) != flag_set.fails:
        expected = "a failure" if flag_set.fails else "success"
        findings.append(Finding("case", "", math.inf, f"both exited with {ours.code} where {expected} was expected\n{last_line(ours.stderr)}"))
    finding = compare_stdout(upstream.stdout, ours.stdout)
    if finding:
        findings.append(finding)
    for name in sorted(upstream.files | ours.files):
        if name not in ours.files or name not in upstream.files:
            side = "upstream" if name in upstream.files else "ours"
            findings.append(Finding("file", name, math.inf, f"{name}: only {side} wrote it"))
        else:
            finding = compare_file(folder, name)
            if finding:
                findings.append(finding)
    for name, original in inputs.items():
        if (folder / "ours" / name).read_bytes() != original.read_bytes():
            findings.append(Finding("case", name, math.inf, f"{name}: ours changed an input file"))
    return findings


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return f"ours said: {lines[-1][:200]}" if lines else "ours said nothing"


class Bench:
    """One model in a folder of its own."""

    def __init__(self, model, calibration, work, upstream, ours, exit_library, lanes):
        self.name = model.stem
        self.model, self.upstream, self.ours, self.exit_library = model.resolve(), upstream, ours, exit_library
        self.lanes = lanes
        self.work = work / self.name
        self.inputs = self.work / "inputs"
        self.inputs.mkdir(parents=True)
        text = calibration.read_text()
        self.prompt = " ".join(text[:4000].split()).replace("\\", "")
        shutil.copy(calibration, self.inputs / "calibration.txt")
        # The names that vocabularies commonly give their special tokens, spread over the text.
        pieces = [text[i : i + 160] for i in range(0, len(text), 160)]
        specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<bos>", "<|endoftext|>", "<unk>"]
        (self.inputs / "special.txt").write_text("".join(p + specials[i % len(specials)] for i, p in enumerate(pieces)))

    def exit_delay(self, milliseconds):
        if self.exit_library is None:
            return {}
        preload = "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"
        return {preload: str(self.exit_library.resolve()), "EXIT_DELAY_MS": str(milliseconds)}

    def make_inputs(self):
        """Earlier files for the cases that read some. Made by upstream for both, so that one fault shows once."""
        for name, flags in [
            ("a.gguf", "-c 128 -b 128 --chunks 2"),
            ("b.gguf", "-c 128 -b 128 --chunk 2 --chunks 2"),
            ("a.dat", "-c 128 -b 128 --chunks 2 --output-format dat"),
        ]:
            folder = self.inputs / f"making-{name}"
            folder.mkdir()
            (folder / "model.gguf").symlink_to(self.model)
            shutil.copy(self.inputs / "calibration.txt", folder)
            arguments = ["-m", "model.gguf", "-f", "calibration.txt", "-t", "1", "--no-ppl", "-o", name, *flags.split()]
            if execute(self.upstream, arguments, folder, []).code == 0 and (folder / name).exists():
                shutil.copy(folder / name, self.inputs / name)

    def has_inputs(self, flag_set):
        return all((self.inputs / name).exists() for name in flag_set.inputs)

    def compare(self, flag_set):
        folder = self.work / flag_set.name
        texts = ["calibration.txt"] + ([flag_set.text] if flag_set.text else [])
        inputs = {name: self.inputs / name for name in {*texts, *flag_set.inputs} if (self.inputs / name).exists()}
        arguments = ["-m", flag_set.model, "-t", "1"]
        if flag_set.text:
            arguments += ["-f", flag_set.text]
        arguments += [self.prompt if flag == "@PROMPT@" else flag for flag in flag_set.flags]
        # A file that is read and then written over is compared as what it became.
        untouched = {name: original for name, original in inputs.items() if name != flag_set.output()}

        def run(program, side, extra_environment=None, extra_arguments=()):
            shutil.rmtree(folder / side, ignore_errors=True)
            (folder / side).mkdir(parents=True)
            (folder / side / "model.gguf").symlink_to(self.model)
            for name, original in inputs.items():
                shutil.copy(original, folder / side / name)
            return execute(program, [*arguments, *extra_arguments], folder / side, {"model.gguf", *untouched}, extra_environment)

        # Each number of lanes is held against one run of upstream's.
        first, *others = self.lanes
        ours = run(self.ours, "ours", extra_arguments=["--lanes", first])
        for delay in EXIT_DELAYS:
            upstream = run(self.upstream, "upstream", self.exit_delay(delay))
            if upstream.code != 0 or not stops_short(upstream.stdout, ours.stdout):
                break
        findings = compare_runs(flag_set, folder, upstream, ours, untouched)
        for lanes in others:
            ours = run(self.ours, "ours", extra_arguments=["--lanes", lanes])
            for finding in compare_runs(flag_set, folder, upstream, ours, untouched):
                finding.detail = f"with {lanes} lanes: {finding.detail}"
                findings.append(finding)
        return findings


class Report:
    """The table, and what is said after it."""

    COLUMNS = ("exit", "file", "stdout")

    @staticmethod
    def say(line):
        print(line, flush=True)

    def __init__(self, allow, bound, width):
        self.allow, self.bound, self.width = allow, bound, width
        self.passed = self.failed = 0
        self.started = time.monotonic()
        self.failures, self.excuses = [], {}

    def header(self):
        self.say(f"{'case':{self.width}}  exit    file    stdout  largest relative difference")

    def add(self, case, findings):
        faults = []
        for finding in findings:
            line = next((a for a in self.allow if finding.kind != "case" and a.covers(case, finding.kind, finding.name, finding.size)), None)
            if line is not None:
                line.used = True
                self.excuses.setdefault(line.number, (line, []))[1].append(case)
            elif not (finding.kind in ("file", "stdout") and finding.size <= self.bound):
                faults.append(finding)
        cells = ["differs" if any(f.kind == kind for f in findings) else "same" for kind in self.COLUMNS]
        if any(f.kind == "case" and f.detail.startswith("exit:") for f in findings):
            cells[0] = "differs"
        sizes = [f.size for f in findings if f.kind in ("file", "stdout")]
        largest = "" if not sizes else f"{max(sizes):.2g}" if math.isfinite(max(sizes)) else "not only numbers"
        verdict = "FAILED" if faults else "allowed" if findings else ""
        self.say(f"{case:{self.width}}  {cells[0]:7} {cells[1]:7} {cells[2]:7} {largest:17} {verdict}".rstrip())
        if faults:
            self.failed += 1
            self.failures.append((case, faults))
        else:
            self.passed += 1

    def finish(self, whole):
        for line, cases in self.excuses.values():
            self.say(f"\nallowed, {len(set(cases))} of {line.pattern}: {line.reason}")
        for case, faults in self.failures:
            self.say(f"\n{case} FAILED")
            for fault in faults:
                self.say("    " + fault.detail.replace("\n", "\n    "))
        # Only a whole run can tell that a line is of no more use.
        for line in self.allow if whole else []:
            if not line.used:
                self.failed += 1
                self.say(f"\nstale: line {line.number} of the list of allowed differences excuses nothing: {line.line}")
        self.say(f"\n{time.monotonic() - self.started:.0f} s")
        self.say(f"{self.passed} passed, {self.failed} failed")
        return 0 if self.failed == 0 and self.passed > 0 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, help="upstream's llama-imatrix")
    parser.add_argument("--ours", required=True, help="our llama-imatrix")
    parser.add_argument("--models", required=True, type=Path, help="folder with *.gguf and calibration.txt")
    parser.add_argument("--work", required=True, type=Path, help="empty folder to work in")
    parser.add_argument("--allow", required=True, type=Path, help="list of allowed differences")
    parser.add_argument("--exit-library", type=Path, help="library that holds upstream's exit back by EXIT_DELAY_MS")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="run the cases that match, such as 'llama/*'")
    parser.add_argument("--bound", type=float, default=0.0, help="accept numbers that differ by no more than this")
    parser.add_argument("--lanes", default="1,2,3", help="run ours with each of these numbers of lanes (%(default)s)")
    args = parser.parse_args()

    try:
        allow = read_allow_list(args.allow)
    except ValueError as error:
        parser.error(f"{args.allow}: {error}")
    models = sorted(args.models.glob("*.gguf"))
    if not models:
        parser.error(f"no *.gguf in {args.models}")

    names = [f"{m.stem}/{f.name}" for i, m in enumerate(models) for f in FLAG_SETS + (ERRORS if i == 0 else [])]
    chosen = {name for name in names if fnmatch.fnmatchcase(name, args.only)}
    if not chosen:
        parser.error(f"no case matches '{args.only}'")
    report = Report(allow, args.bound, max(map(len, chosen)))
    skipped = []
    report.header()
    for i, model in enumerate(models):
        flag_sets = [f for f in FLAG_SETS + (ERRORS if i == 0 else []) if f"{model.stem}/{f.name}" in chosen]
        if not flag_sets:
            continue
        bench = Bench(model, args.models / "calibration.txt", args.work, args.upstream, args.ours, args.exit_library, args.lanes.split(","))
        if any(f.inputs for f in flag_sets):
            bench.make_inputs()
        for flag_set in flag_sets:
            case = f"{model.stem}/{flag_set.name}"
            if bench.has_inputs(flag_set):
                report.add(case, bench.compare(flag_set))
            else:
                skipped.append(case)
    if skipped:
        print(f"\nnot run, since upstream could not make their input files: {', '.join(skipped)}")
    code = report.finish(whole=args.only == "*")
    return 1 if skipped else code


if __name__ == "__main__":
    sys.exit(main())
