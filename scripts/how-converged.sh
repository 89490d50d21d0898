#!/usr/bin/env bash
# Shows what the convergence of a matrix is worth: collects matrices of the bundled model over ever more text, in order and
# shuffled, and prints how well the halves of each text agree and how far each matrix is from that of the whole text.
#
#   scripts/how-converged.sh [CHUNKS...]
#
# CHUNKS: numbers of chunks of 512 tokens, from 2 on (2 4 8 16 32 64 128). Takes a minute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
case "${1:-}" in -*)
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
    ;;
esac
[ $# -gt 0 ] || set -- 2 4 8 16 32 64 128
# shellcheck source=scripts/env.sh
. "$here/env.sh"
ours=$(llama_imatrix_program)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
quickstart=$root/assets/quickstart

# Batches of one chunk, all saved.
collect() {
    "$ours" -m "$quickstart/quickstart.gguf" -f "$quickstart/calibration.txt" -c 512 -b 512 --no-ppl -ofreq 1 \
        --save-frequency 1 --convergence "$@" >log 2>&1 || {
        tail -n 3 log >&2
        exit 1
    }
}
collect -o ordered.gguf
collect -o shuffled.gguf --shuffle --seed 1

for order in ordered shuffled; do
    printf '\n%s:\n\n' "$order"
    echo '| tokens | lowest cosine | median | relative error | estimated cosine of the matrix | measured | median |'
    echo '|---|---|---|---|---|---|---|'
    for chunks in "$@"; do
        "$ours" compare "$order.gguf" "$order.gguf.at_$chunks" --format json >compared.json 2>log
        python3 - "$chunks" "$order.convergence.json" <<'PYTHON'
import json, math, statistics, sys

chunks = int(sys.argv[1])
point = next(p for p in json.load(open(sys.argv[2]))["curve"] if p["chunks"] == chunks)
rows = json.load(open("compared.json"))["comparisons"][0]["tensors"]
measured = [row["cosine"] for row in rows]
c = point["cosine"]
print(
    f"| {point['tokens']} | {c:.4f} | {point['median_cosine']:.4f} | {100 * point['relative_error']:.1f} % "
    f"| {math.sqrt(2 * c / (1 + c)):.4f} | {min(measured):.4f} | {statistics.median(measured):.4f} |"
)
PYTHON
    done
done
