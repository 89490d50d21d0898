#!/usr/bin/env bash
# Shows the effect of an importance matrix: quantizes the bundled model with and without it, with llama.cpp's own tools, and
# prints the perplexity of each on text that was used neither for training nor for calibration.
#
#   scripts/show-quantize.sh [IMATRIX]
#
# IMATRIX is a matrix of the bundled model; by default one is collected first. Fails if IQ2_XXS, which needs a matrix,
# refuses this one, or if neither Q2_K nor IQ3_S is better with it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
model=$root/assets/quickstart/quickstart.gguf
held_out=$root/assets/quickstart/held-out.txt

die() {
    printf 'show-quantize: %s\n' "$*" >&2
    exit 1
}

# quantize NAME TYPE [FLAG...]: writes NAME.gguf in the scratch folder
quantize() {
    local name=$1 type=$2
    shift 2
    "$bin/llama-quantize" "$@" "$model" "$scratch/$name.gguf" "$type" >"$scratch/$name.log" 2>&1
}

# Prints "12.3456 +/- 0.12345".
perplexity() {
    local log found
    log=$scratch/$(basename "$1").perplexity.log
    # Without the delay the estimate, its last line, may be lost: see exit-delay.sh.
    LD_PRELOAD=$scratch/exit-delay.so DYLD_INSERT_LIBRARIES=$scratch/exit-delay.so EXIT_DELAY_MS=500 \
        "$bin/llama-perplexity" -m "$1" -f "$held_out" -c 512 >"$log" 2>&1 || true
    found=$(sed -n 's/.*Final estimate: PPL = //p' "$log")
    [ -n "$found" ] || {
        tail -n 5 "$log" >&2
        die "llama-perplexity has no estimate for $1"
    }
    printf '%s' "$found"
}

# better A B: whether perplexity A is lower than B
better() { awk -v a="${1%% *}" -v b="${2%% *}" 'BEGIN { exit !(a + 0 < b + 0) }'; }

row() { printf '| %-18s | %8s | %-22s | %-22s |\n' "$@"; }

kibibytes() { echo "$((($(wc -c <"$1") + 1023) / 1024)) KiB"; }

# both TYPE: a row with and without the matrix; true if it is better with it
both() {
    local type=$1 without with
    quantize "$type-without" "$type" || die "llama-quantize failed for $type without a matrix: $(tail -n 1 "$scratch/$type-without.log")"
    quantize "$type-with" "$type" --imatrix "$imatrix" || die "llama-quantize refuses the matrix for $type: $(tail -n 1 "$scratch/$type-with.log")"
    # `set -e` is off in a function whose result is asked for.
    without=$(perplexity "$scratch/$type-without.gguf") || exit 1
    with=$(perplexity "$scratch/$type-with.gguf") || exit 1
    row "$type" "$(kibibytes "$scratch/$type-with.gguf")" "$without" "$with"
    better "$with" "$without"
}

# IQ2_XXS: refused without, accepted with
needs_matrix() {
    local type=IQ2_XXS with
    if quantize "$type-without" "$type"; then
        die "llama-quantize made $type without a matrix; that it refuses is what this shows"
    fi
    quantize "$type-with" "$type" --imatrix "$imatrix" || die "llama-quantize refuses the matrix for $type: $(tail -n 1 "$scratch/$type-with.log")"
    with=$(perplexity "$scratch/$type-with.gguf")
    row "$type" "$(kibibytes "$scratch/$type-with.gguf")" "refused" "$with"
}

main() {
    [ $# -le 1 ] || die "at most one argument: the importance matrix"
    local file
    for file in "$model" "$held_out"; do
        [ -f "$file" ] || die "$file is missing from this checkout"
    done
    bin=$("$here/upstream.sh" | tail -n 1)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$here/exit-delay.sh" "$scratch/exit-delay.so"
    if [ $# -eq 1 ]; then
        imatrix=$1
        [ -f "$imatrix" ] || die "$imatrix does not exist"
    else
        "$here/quickstart.sh" "$scratch" >&2
        imatrix=$scratch/imatrix.gguf
    fi

    printf '\nPerplexity on held-out text, 512 tokens of context; lower is better\n\n'
    row "type" "size" "without the matrix" "with the matrix"
    printf '|%s|%s:|%s|%s|\n' -------------------- --------- ------------------------ ------------------------
    local whole improved=""
    whole=$(perplexity "$model")
    row "as it is" "$(kibibytes "$model")" "$whole" ""
    both Q2_K && improved="$improved Q2_K"
    both IQ3_S && improved="$improved IQ3_S"
    needs_matrix
    [ -n "$improved" ] || die "neither Q2_K nor IQ3_S is better with the matrix"
    printf '\nBetter with the matrix:%s. IQ2_XXS needs it and takes it.\n' "$improved"
}

main "$@"
