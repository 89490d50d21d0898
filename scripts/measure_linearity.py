#!/usr/bin/env python3
"""Tables of how the KL divergence grows with the error; called by measure-linearity.sh: measure_linearity.py DIR TYPE.."""

import json
import math
import os
import statistics
import sys

# What recipes use by default.
REFERENCE = "q3_K"
# Divergences below this are lost in the rounding of the reference's log-probabilities.
FLOOR = 2e-7


def load(folder, name):
    with open(os.path.join(folder, name)) as file:
        return json.load(file)


def quantile(values, fraction):
    """The value at a fraction of the sorted values, interpolated."""
    values = sorted(values)
    at = fraction * (len(values) - 1)
    below = math.floor(at)
    above = min(below + 1, len(values) - 1)
    return values[below] + (at - below) * (values[above] - values[below])


def exponent(points):
    """The slope of log divergence over log error, by least squares."""
    logs = [(math.log(error), math.log(divergence)) for error, divergence in points]
    x, y = (statistics.mean(values) for values in zip(*logs))
    return sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)


def kind(name):
    return name.removesuffix(".weight").split(".", 2)[-1] if name.startswith("blk.") else name.removesuffix(".weight")


def proportion(measured, reference):
    """Per type: the divergence per squared error, relative to the reference type's, over all weights."""
    print(f"| type | error, times {REFERENCE}'s | weights | median ratio | 10 % to 90 % | sum measured | sum predicted from {REFERENCE} |")
    print("|---|---|---|---|---|---|---|")
    for dtype, weights in measured.items():
        # Weights that fell back to another type say nothing about this one.
        names = [name for name, weight in weights.items() if weight["type"] == dtype]
        ratios, grown, predicted, total = [], [], 0.0, 0.0
        for name in names:
            weight, base = weights[name], reference[name]
            per_error = base["divergence"] / base["error"]
            grown.append(weight["error"] / base["error"])
            ratios.append(weight["divergence"] / weight["error"] / per_error)
            predicted += weight["error"] * per_error
            total += weight["divergence"]
        print(
            f"| {dtype} | {statistics.median(grown):.4g} | {len(names)} | {statistics.median(ratios):.2f} "
            f"| {quantile(ratios, 0.1):.2f} to {quantile(ratios, 0.9):.2f} | {total:.6f} | {predicted:.6f} |"
        )


def exponents(measured, reference):
    """Per kind of weight: the exponents over all types, and over those with small errors."""
    print("\n| kind | exponent, all types | up to four times the error of " + REFERENCE + " | largest divergence |")
    print("|---|---|---|---|")
    kinds = {}
    for name in reference:
        points = [(w[name]["error"], w[name]["divergence"]) for w in measured.values() if name in w]
        points = [(error, divergence) for error, divergence in points if divergence > FLOOR]
        small = [point for point in points if point[0] <= 4 * reference[name]["error"]]
        kinds.setdefault(kind(name), []).append((exponent(points), exponent(small), max(d for _, d in points)))
    for name, found in kinds.items():
        whole, small, largest = zip(*found)
        shown = [f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}" for values in (whole, small)]
        print(f"| `{name}` | {shown[0]} | {shown[1]} | {max(largest):.4f} |")


def sums(folder, measured):
    """Groups of weights: their divergence together, relative to the sum of the divergences of each alone."""
    print("\n| type | groups | together over sum, median | least | most | all groups |")
    print("|---|---|---|---|---|---|")
    for dtype in ("q4_K", "q3_K", "q2_K"):
        for by in ("layer", "kind"):
            groups = load(folder, f"{by}-{dtype}.json")["groups"]
            several = {name: group for name, group in groups.items() if len(group["weights"]) > 1}
            alone = {name: sum(measured[dtype][weight]["divergence"] for weight in group["weights"]) for name, group in several.items()}
            ratios = {name: group["divergence"] / alone[name] for name, group in several.items()}
            least, most = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
            whole = sum(group["divergence"] for group in several.values()) / sum(alone.values())
            print(
                f"| {dtype} | {len(several)} {by}s | {statistics.median(ratios.values()):.2f} | {ratios[least]:.2f} (`{least}`) "
                f"| {ratios[most]:.2f} (`{most}`) | {whole:.2f} |"
            )


def main():
    folder, types = sys.argv[1], sys.argv[2:]
    measured = {dtype: load(folder, f"weight-{dtype}.json")["weights"] for dtype in types}
    reference = measured[REFERENCE]
    proportion(measured, reference)
    exponents(measured, reference)
    sums(folder, measured)


if __name__ == "__main__":
    main()
