#!/usr/bin/env bash
# Compares recipes with llama-quantize's presets at the same size: KL divergence on held-out text. docs/recipes.md has the results.
#
#   scripts/measure-recipes.sh [DIR [MODEL CALIBRATION HELD_OUT]]
#
# DIR keeps the matrix, the sensitivities and results.json, and a second run continues; by default a temporary folder. The model
# and its texts are the bundled ones by default. Environment: LLAMA_IMATRIX_BIN, the program to use instead of the one built here;
# LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh; MEASURE_ARGS, more arguments of measure_recipes.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

main() {
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    local upstream ours
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours=$(llama_imatrix_program)
    llama_imatrix_work_folder "${1:-}"
    local quickstart=$root/assets/quickstart
    # shellcheck disable=SC2086 # several arguments
    python3 "$here/measure_recipes.py" --ours "$ours" --upstream "$upstream" --work "$work" ${MEASURE_ARGS:-} \
        "${2:-$quickstart/quickstart.gguf}" "${3:-$quickstart/calibration.txt}" "${4:-$quickstart/held-out.txt}"
}

main "$@"
