#!/usr/bin/env python3
"""Compares recipes with presets and uniform types at the same size; called by measure-recipes.sh, which describes the arguments."""

import argparse
import json
import os
import statistics

from measure_common import Failed, attempt, change, judge, percent, run, spearman
from measure_picture import picture
from recipe_types import tensors

PRESETS = "IQ2_XXS IQ2_XS Q2_K IQ3_XXS IQ3_S Q3_K_M IQ4_XS Q4_K_M Q5_K_M Q6_K".split()
PURE = "Q2_K Q3_K IQ4_XS Q4_K Q5_K Q6_K".split()
SENSITIVITY = ["--sensitivity", "sensitivity.json"]
# Kinds of recipes, and their flags.
KINDS = {
    "estimate": [],
    "estimate-no-means": ["--no-means"],
    "estimate-no-fuse": ["--no-fuse"],
    "measured": SENSITIVITY,
    "measured-no-means": ["--no-means", *SENSITIVITY],
    "measured-no-fuse": ["--no-fuse", *SENSITIVITY],
}
# What the costs of files are predicted with.
PREDICTIONS = {"estimated": [], "measured": SENSITIVITY}


def parse():
    parser = argparse.ArgumentParser()
    for name in ("--ours", "--upstream", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--pure", default=",".join(PURE), help="types of llama-quantize --pure; may be empty")
    parser.add_argument("--kinds", default="estimate,estimate-no-means,measured,measured-no-means")
    parser.add_argument("--pure-kinds", default="measured", help="kinds of recipes to compare with pure types")
    parser.add_argument("--rows", default="", help="rows of recipe; all by default")
    parser.add_argument("--chunks", default="", help="chunks of the held-out text; all by default")
    parser.add_argument("--tokens", default="16384", help="tokens per weight of sensitivity")
    parser.add_argument("--picture", default="predicted.svg", help="the picture of predicted and measured KL divergences")
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    args = parser.parse_args()
    args.model, args.calibration, args.held_out, args.picture = map(
        os.path.abspath, (args.model, args.calibration, args.held_out, args.picture)
    )
    args.rows = ["--rows", args.rows] if args.rows else ["--exact"]
    args.kinds, args.pure_kinds, args.presets = (text.split(",") for text in (args.kinds, args.pure_kinds, args.presets))
    # Each file that recipes are compared with, and the arguments of llama-quantize for it.
    args.files = {preset: [preset] for preset in args.presets}
    args.files |= {f"pure {pure}": ["--pure", pure] for pure in args.pure.split(",") if pure}
    return args


class Measurement:
    """The matrix, sensitivities and results in the folder of work. Each is made once; a later run continues."""

    def __init__(self, args):
        self.args = args
        self.results = json.load(open("results.json")) if os.path.exists("results.json") else {}
        costs = json.load(open("costs.json")) if os.path.exists("costs.json") else {}
        self.errors, self.sensitivities = costs.get("errors", {}), costs.get("sensitivities", {})
        if not os.path.exists("imatrix.gguf"):
            run(args.ours, "-m", args.model, "-f", args.calibration, "-c", 512, "--process-output", "--no-ppl", "-o", "imatrix.gguf")
        if not os.path.exists("sensitivity.done"):
            # A run that was interrupted continues.
            run(args.ours, "sensitivity", args.model, "imatrix.gguf", "-f", args.calibration, "--tokens", args.tokens, "-o", "sensitivity.json")
            open("sensitivity.done", "w").close()
        if not os.path.exists("base.logits"):
            limit = ["--chunks", args.chunks] if args.chunks else []
            run(args.ours, "kld", args.model, "-f", args.held_out, "--save-logits", "base.logits", *limit)

    def measure(self, name, arguments):
        """Makes a file with llama-quantize, and recipes of each kind at its size; judges all."""
        done = self.results.setdefault(name, {})
        kinds = [kind for kind in self.kinds(name) if kind not in done]
        if "refused" in done or not kinds:
            return
        try:
            attempt(f"{self.args.upstream}/llama-quantize", *arguments[:-1], "--imatrix", "imatrix.gguf", self.args.model, "it.gguf", arguments[-1])
        except Failed as error:
            done["refused"] = str(error)
            return
        size = os.path.getsize("it.gguf")
        files = {"it": "it.gguf"} | {kind: self.recipe(kind, size) for kind in kinds}
        for (kind, file), result in zip(files.items(), judge(self.args.ours, "base.logits", files.values(), self.args.held_out)):
            done[kind] = {"bytes": os.path.getsize(file), "predicted": self.predict(file), **result.to_json()}
            os.remove(file)
        json.dump(self.results, open("results.json", "w"), indent=1)
        cells = [f"{kind} {percent(done['it']['per_chunk'], done[kind]['per_chunk'])}" for kind in self.kinds(name)]
        print(f"{name:12} {size:9} bytes, KL {done['it']['kl']:.6f}; {', '.join(cells)}", flush=True)

    def kinds(self, name):
        """Returns the kinds of recipes at the size of a file."""
        return self.args.kinds if name in self.args.presets else self.args.pure_kinds

    def recipe(self, kind, size):
        """Makes a file of a recipe, at most as large."""
        args, out = self.args, f"{kind}.gguf"
        document = json.loads(
            run(args.ours, "recipe", args.model, "imatrix.gguf", "--size", size, "--format", "json", "-o", "types.txt", *args.rows, *KINDS[kind])
        )
        for name, flags in PREDICTIONS.items():
            if flags == KINDS[kind]:
                self.learn(name, document)
        run(f"{args.upstream}/llama-quantize", "--imatrix", "imatrix.gguf", "--tensor-type-file", "types.txt", args.model, out, document["command"][-1])
        if os.path.getsize(out) != document["file_bytes"] or document["file_bytes"] > size:
            raise SystemExit(f"{kind}: {os.path.getsize(out)} bytes, predicted {document['file_bytes']}, allowed {size}")
        return out

    def predict(self, file):
        """Returns the cost of the types that a file has, by each of PREDICTIONS: as of a recipe without any choice."""
        args = self.args
        types = {name: type_ for name, type_ in tensors(file) if type_ not in ("f32", "f16")}
        keep = [word for name, type_ in types.items() for word in ("--keep", f"{name}={type_}")]
        command = [args.ours, "recipe", args.model, "imatrix.gguf", "--size", os.path.getsize(file), "--no-fuse", "--format", "json", *args.rows]
        for kind, flags in PREDICTIONS.items():
            if any(f"{name} {type_}" not in self.errors for name, type_ in types.items()) or kind not in self.sensitivities:
                self.learn(kind, json.loads(run(*command, *keep, *flags)))
        return {
            kind: sum(self.errors[f"{name} {type_}"] * self.sensitivities[kind][name] for name, type_ in types.items())
            for kind in PREDICTIONS
        }

    def learn(self, kind, document):
        """Keeps the squared errors and sensitivities that a recipe lists: they do not depend on what it chose."""
        for row in document["tensors"]:
            self.errors[f"{row['tensor']} {row['type']}"] = row["error"] * row["power"]
        self.sensitivities[kind] = {row["tensor"]: row["sensitivity"] for row in document["tensors"]}
        json.dump({"errors": self.errors, "sensitivities": self.sensitivities}, open("costs.json", "w"), indent=1)


def share(x):
    return f"{x:+.1f} %".replace("-", "−")


def table(names, kinds, results):
    """Prints the comparison with some files as Markdown, and the median change."""
    header = ["file", "bytes", "KL divergence", *kinds]
    print("\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for name in names:
        row = results[name]
        if "refused" in row:
            cells = [name, f"refused: {row['refused']}"] + [""] * (len(header) - 2)
        else:
            it = row["it"]
            cells = [name, f"{it['bytes']:,}", f"{it['kl']:.6f} ± {1.96 * it['error']:.6f}"]
            cells += [f"{row[kind]['kl']:.6f} ({percent(it['per_chunk'], row[kind]['per_chunk'])})" for kind in kinds]
        print("| " + " | ".join(cells) + " |")
    rows = [results[name] for name in names if "refused" not in results[name]]
    for kind in kinds if rows else []:
        found = [100 * change(row["it"]["per_chunk"], row[kind]["per_chunk"])[0] for row in rows]
        print(f"\n{kind}: median {share(statistics.median(found))}, best {share(min(found))}, worst {share(max(found))}")


def correlations(results, picture_path):
    """Compares predicted and measured KL divergences of all files, and draws them."""
    points = []
    for name, row in results.items():
        for kind, found in row.items():
            if kind != "refused":
                group = ("pure type" if name.startswith("pure ") else "preset") if kind == "it" else "recipe"
                points.append((group, found["predicted"], found["kl"]))
    panels = {}
    for kind in PREDICTIONS:
        rank = spearman([predicted[kind] for _, predicted, _ in points], [kl for _, _, kl in points])
        print(f"\n{kind} sensitivities: rank correlation of predicted and measured KL divergence {rank:.3f} over {len(points)} files")
        panels[f"{kind} sensitivities: rank correlation {rank:.3f}"] = [(group, predicted[kind], kl) for group, predicted, kl in points]
    with open(picture_path, "w") as file:
        file.write(picture(panels))


def main():
    args = parse()
    os.chdir(args.work)
    measurement = Measurement(args)
    for name, arguments in args.files.items():
        measurement.measure(name, arguments)
    table(args.presets, args.kinds, measurement.results)
    pure = [name for name in args.files if name not in args.presets]
    if pure:
        table(pure, args.pure_kinds, measurement.results)
    correlations({name: measurement.results[name] for name in args.files}, args.picture)


if __name__ == "__main__":
    main()
