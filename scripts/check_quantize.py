"""Compares `llama-imatrix check` with llama-quantize; see check-quantize.sh."""

import argparse
import concurrent.futures
import fnmatch
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading

TYPES = """Q1_0 Q2_0 Q4_0 Q4_1 MXFP4_MOE Q5_0 Q5_1 IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M TQ1_0 TQ2_0 Q2_K Q2_K_S IQ3_XXS
IQ3_S IQ3_M IQ3_XS Q3_K_S Q3_K_M Q3_K_L IQ4_NL IQ4_XS Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K Q8_0 F16 BF16 F32""".split()
# Models whose matrices are tried with every type in the short form too, and the types for the others.
THOROUGH = ("dense", "moe")
SAMPLE = ("IQ2_XXS", "IQ3_XXS", "Q2_K_S", "Q4_K_M", "Q1_0", "F16")

TENSOR = re.compile(r"\] (\S+) +- \[.*\], type = +(\S+), (?:size = .*\((\S+)\)$)?", re.M)
# Messages of llama-quantize, and our names for the reasons.
REASONS = (
    (r"missing imatrix metadata", "no-metadata"),
    (r"imatrix contains non-finite value", "not-finite"),
    (r"failed to quantize: imatrix size \d+ is different from tensor size \d+ for (\S+)", "wrong-size"),
    (r"failed to quantize: Missing importance matrix for tensor (\S+) in", "missing"),
    (r"requantizing from type \S+ is disabled", "requantize"),
    (r"no tensor type fallback is defined", "no-target"),
)


class Comparison:
    def __init__(self, args):
        self.args = args
        self.wrong = []
        # What llama-quantize did: lines about types, and the types by model, matrix and result.
        self.golden = []
        self.refusals = {}
        self.runs = 0
        self.lock = threading.Lock()

    def quantize(self, flags, model, type_):
        env = dict(os.environ)
        if not self.args.full:
            env["LD_PRELOAD"] = self.args.stub
        file = f"quantized-{threading.get_ident()}.gguf"
        out = [] if "--dry-run" in flags else [os.path.join(self.args.work, file)]
        command = [self.args.quantize, *flags, str(model), *out, type_, "1"]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, timeout=600)
        with self.lock:
            self.runs += 1
        return ran.returncode, ran.stdout + ran.stderr

    def check(self, model, matrix, type_):
        command = [self.args.ours, "check", str(model), str(matrix), "--type", type_, "--format", "json"]
        ran = subprocess.run(command, capture_output=True, text=True)
        if not ran.stdout:
            return ran.returncode, None
        return ran.returncode, json.loads(ran.stdout)

    def differ(self, text):
        self.wrong.append(text)
        print(f"DIFFERS {text}", flush=True)

    def types(self, model, matrix, type_):
        """The target of each tensor, by a dry run."""
        _, found = self.check(model, matrix, type_)
        code, log = self.quantize(["--imatrix", str(matrix), "--dry-run"], model, type_)
        theirs = [(name, target or source) for name, source, target in TENSOR.findall(log)]
        ours = [(t["name"], t["to"]) for t in found["quantization"]["tensors"]]
        self.golden.append(f"types {model.stem} {type_} " + (joined(theirs) if code == 0 else "stops"))
        if code != 0 and found["quantization"]["refused"] and not ours:
            return
        if code != 0 or ours != theirs:
            first = next((pair for pair in zip(ours, theirs) if pair[0] != pair[1]), (len(ours), len(theirs)))
            self.differ(f"types of {model.stem} as {type_}: {first} (exit code {code})")

    def refusal(self, model, matrix, type_):
        exit_code, found = self.check(model, matrix, type_)
        code, log = self.quantize(["--imatrix", str(matrix)], model, type_)
        theirs = reason(log) if code else None
        result = " ".join(theirs) if theirs else "accepted"
        with self.lock:
            self.refusals.setdefault((model.stem, matrix.name, result), []).append(type_)
        label = f"{model.stem} {matrix.name} {type_}"
        if found is None:
            if code == 0:
                self.differ(f"{label}: check failed, llama-quantize accepts")
            return
        prediction = found["quantization"]
        first = prediction["refusals"][0] if prediction["refusals"] else None
        ours = (first["reason"], first["tensor"] or "-") if first else None
        if ours and ours[0] == "requantize":
            ours = ("requantize", "-")
        if (code != 0) != prediction["refused"] or ours != theirs:
            self.differ(f"{label}: predicted {ours}, found {theirs} (exit code {code})")
        elif code != 0 and exit_code != 1:
            self.differ(f"{label}: refused, and check exits with {exit_code}")
        if prediction["overrides"] and all(r["reason"] == "missing" for r in prediction["refusals"]):
            flags = [word for flag in prediction["overrides"] for word in shlex.split(flag)]
            code, log = self.quantize(["--imatrix", str(matrix), *flags], model, type_)
            if code != 0:
                self.differ(f"{label}: refused with the flags that check gives: {reason(log)}")


def joined(targets):
    """Types in the order of the tensors, runs of one as `type*n`."""
    runs = []
    for _, target in targets:
        if runs and runs[-1][0] == target:
            runs[-1][1] += 1
        else:
            runs.append([target, 1])
    return " ".join(target if n == 1 else f"{target}*{n}" for target, n in runs)


def reason(log):
    for pattern, name in REASONS:
        match = re.search(pattern, log)
        if match:
            return name, match.group(1) if match.groups() else "-"
    return "unknown", log.strip().splitlines()[-1] if log.strip() else "-"


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--quantize", "--ours", "--models", "--stub", "--work", "--only", "--golden"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    comparison = Comparison(args)
    models = sorted(path for path in pathlib.Path(args.models).glob("*.gguf") if fnmatch.fnmatch(path.stem, args.only))
    if not models:
        sys.exit(f"no models in {args.models}")
    for model in models:
        folder = model.with_suffix("")
        matrices = sorted(path for path in folder.iterdir() if path.is_file())
        for type_ in TYPES:
            comparison.types(model, folder / "full.gguf", type_)
        types = TYPES if args.full or model.stem in THOROUGH else SAMPLE
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            cases = [(matrix, type_) for matrix in matrices for type_ in types]
            list(pool.map(lambda case: comparison.refusal(model, *case), cases))
        print(f"{model.stem}: {len(matrices)} matrices, {comparison.runs} runs so far", flush=True)
    if args.golden:
        lines = comparison.golden + [
            f"matrix {model} {matrix} {result}: {' '.join(sorted(types, key=TYPES.index))}"
            for (model, matrix, result), types in sorted(comparison.refusals.items())
        ]
        pathlib.Path(args.golden).write_text("\n".join(lines) + "\n")
    print(f"{comparison.runs} runs of llama-quantize, {len(comparison.wrong)} differences")
    sys.exit(1 if comparison.wrong else 0)


main()
