#!/usr/bin/env bash
# Measures --fill-experts: a model with experts is calibrated with little text, quantized by llama-quantize, and compared with the
# original on held-out text. docs/stats.md has the results.
#
#   scripts/measure-fill.sh [DIR [MODEL CALIBRATION HELD_OUT]]
#
# DIR keeps matrices and results.json, and a second run continues; by default a temporary folder. The model is by default the one that
# `scripts/train-quickstart/train.sh --model moe` makes. Environment: LLAMA_IMATRIX_BIN, the program to use instead of the one built
# here; LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh; MEASURE_ARGS, more arguments of measure_fill.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

main() {
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    local upstream ours
    local quickstart=$root/assets/quickstart
    local model=${2:-$LLAMA_IMATRIX_CACHE/models/moe/moe.gguf}
    [ -f "$model" ] || {
        printf 'measure-fill: there is no %s; hint: scripts/train-quickstart/train.sh --model moe\n' "$model" >&2
        exit 1
    }
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours=$(llama_imatrix_program)
    llama_imatrix_work_folder "${1:-}"
    # shellcheck disable=SC2086 # several arguments
    python3 "$here/measure_fill.py" --ours "$ours" --upstream "$upstream" --work "$work" ${MEASURE_ARGS:-} \
        "$model" "${3:-$quickstart/calibration.txt}" "${4:-$quickstart/held-out.txt}"
}

main "$@"
