#!/usr/bin/env bash
# Computes the held-out perplexity of the bundled model, unquantized and quantized with and without an
# importance matrix, with llama.cpp's own tools. Writes a table to standard output.
#
#   evaluate.sh [ASSETS [TYPE...]]    LLAMA_CPP_BIN names the folder of llama.cpp's programs,
#                                     THREADS their number of threads
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
assets=${1:-$here/../../assets/quickstart}
types=("${@:2}")
[[ ${#types[@]} -gt 0 ]] || types=(IQ4_XS Q3_K_S IQ3_S Q2_K IQ2_XXS)
bin=${LLAMA_CPP_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/llama-imatrix/upstream/build/bin}
threads=${THREADS:-$(nproc)}
[[ -x $bin/llama-perplexity ]] || {
    echo "evaluate.sh: no llama-perplexity in $bin: set LLAMA_CPP_BIN" >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The estimate and its error, as "12.3456 +/- 0.12345". Upstream's programs may exit before their
# log thread has written its last lines (ggml-org/llama.cpp #22142), on a busy machine mostly.
perplexity() {
    local estimate
    for _ in 1 2 3 4 5; do
        "$bin/llama-perplexity" -m "$1" -f "$assets/held-out.txt" -c 512 -t "$threads" >"$work/log" 2>&1 ||
            { cat "$work/log" >&2; return 1; }
        estimate=$(sed -n 's/.*Final estimate: PPL = //p' "$work/log")
        [[ -n $estimate ]] && { echo "$estimate"; return; }
    done
    echo "evaluate.sh: llama-perplexity printed no estimate for $1" >&2
    return 1
}

# quantized TYPE [OPTION...]: the perplexity of the model so quantized, or "refused".
quantized() {
    local type=$1
    shift
    if "$bin/llama-quantize" "$@" "$assets/quickstart.gguf" "$work/model.gguf" "$type" "$threads" >"$work/log" 2>&1; then
        perplexity "$work/model.gguf"
    else
        echo refused
    fi
}

"$bin/llama-imatrix" -m "$assets/quickstart.gguf" -f "$assets/calibration.txt" -o "$work/imatrix.gguf" \
    -t "$threads" --no-ppl >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

echo "| type | without a matrix | with |"
echo "| --- | --- | --- |"
f16=$(perplexity "$assets/quickstart.gguf")
echo "| F16 | $f16 | |"
for type in "${types[@]}"; do
    without=$(quantized "$type")
    with=$(quantized "$type" --imatrix "$work/imatrix.gguf")
    echo "| $type | $without | $with |"
done
