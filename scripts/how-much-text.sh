#!/usr/bin/env bash
# Shows how much text a matrix needs: collects matrices of the bundled model over ever more text, quantizes with each, and prints
# the KL divergence from the unquantized model on held-out text. Uses llama.cpp's own quantizer and judge.
#
#   scripts/how-much-text.sh [CHUNKS...]
#
# CHUNKS: numbers of chunks of 512 tokens (1 4 16 64 200). Takes some minutes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
case "${1:-}" in -*)
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
    ;;
esac
[ $# -gt 0 ] || set -- 1 4 16 64 200
types=(IQ2_XXS Q2_K IQ3_XXS IQ4_XS)
bin=$("$here/upstream.sh" | tail -n 1)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
ours=$(llama_imatrix_program)
model=$root/assets/quickstart/quickstart.gguf
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp "$root/assets/quickstart/held-out.txt" "$root/assets/quickstart/calibration.txt" "$scratch/"
cd "$scratch"
"$here/exit-delay.sh" "$PWD/exit-delay.so"

judge() {
    # See exit-delay.sh.
    LD_PRELOAD=$PWD/exit-delay.so DYLD_INSERT_LIBRARIES=$PWD/exit-delay.so EXIT_DELAY_MS=500 \
        "$bin/llama-perplexity" "$@" -f held-out.txt -c 512 2>&1 || true
}

judge -m "$model" --save-all-logits base >/dev/null
divergence() {
    local found
    found=$(judge -m "$1" --kl-divergence-base base --kl-divergence | sed -n 's/^Mean *KLD: *\([0-9.]*\).*/\1/p')
    echo "${found:-failed}"
}

printf '| tokens |'
printf ' %s |' "${types[@]}"
printf '\n|---|'
printf -- '---|%.0s' "${types[@]}"
printf '\n'
for chunks in "$@"; do
    "$ours" -m "$model" -f calibration.txt -c 512 --chunks "$chunks" --no-ppl -o m.gguf >log 2>&1 || {
        tail -n 3 log >&2
        exit 1
    }
    printf '| %d |' $((512 * chunks))
    for type in "${types[@]}"; do
        "$bin/llama-quantize" --imatrix m.gguf "$model" q.gguf "$type" >log 2>&1 || {
            tail -n 3 log >&2
            exit 1
        }
        printf ' %s |' "$(divergence q.gguf)"
    done
    printf '\n'
done
