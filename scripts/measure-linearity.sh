#!/usr/bin/env bash
# Checks two assumptions of recipes on a model: the KL divergence that one weight's error causes grows in proportion to the expected
# squared error, and the divergences of several weights add up. docs/recipes.md has the results.
#
#   scripts/measure-linearity.sh [DIR [MODEL CALIBRATION]]
#
# DIR keeps the matrix and the sensitivities, and a second run continues; by default a temporary folder. The model and its text are
# the bundled ones by default. Environment: LLAMA_IMATRIX_BIN, the program to use instead of the one built here; TYPES, the types to
# measure; TOKENS, tokens per weight (4096).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

main() {
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    local ours model calibration type by
    ours=$(llama_imatrix_program)
    llama_imatrix_work_folder "${1:-}"
    model=${2:-$root/assets/quickstart/quickstart.gguf}
    calibration=${3:-$root/assets/quickstart/calibration.txt}
    [ -f "$work/imatrix.gguf" ] ||
        "$ours" -m "$model" -f "$calibration" -c 512 --chunks 40 --no-ppl --process-output -o "$work/imatrix.gguf" >/dev/null
    measure() { # OUTPUT FLAG..
        local output=$1
        shift
        "$ours" sensitivity "$model" "$work/imatrix.gguf" -f "$calibration" --tokens "${TOKENS:-4096}" -o "$work/$output" "$@"
    }
    local types=${TYPES:-q8_0 q6_K q5_K q4_K iq4_xs q3_K iq3_xxs q2_K iq2_xxs iq1_s}
    for type in $types; do
        measure "weight-$type.json" --type "$type"
    done
    for type in q4_K q3_K q2_K; do
        for by in layer kind; do
            measure "$by-$type.json" --type "$type" --by "$by"
        done
    done
    # shellcheck disable=SC2086 # several types
    python3 "$here/measure_linearity.py" "$work" $types
}

main "$@"
