#!/usr/bin/env bash
# Compares logit lens, logit prism and layer similarity with a forward pass in numpy: of the bundled model, and of small
# test models with shared experts and MLA, norms after blocks and soft caps, a parallel block, activation scales, a recurrence.
#
#   scripts/check-lens.sh [--with-upstream]
#
# With --with-upstream it also quantizes the model and compares the last layer's KL with llama-perplexity --kl-divergence.
# Needs python3 with venv; numpy, gguf and tokenizers are installed in the cache. Without python3 it prints a line and
# succeeds; if CI is set, it fails.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
with_upstream=false
case "${1:-}" in
"") ;;
--with-upstream) with_upstream=true ;;
*)
    sed -n '2,9p' "$0" >&2
    exit 1
    ;;
esac
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo "python3 with venv is not installed: skipped"
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
venv="$LLAMA_IMATRIX_CACHE/check-lens"
if [ ! -e "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check numpy gguf tokenizers
    touch "$venv/ready"
fi

cargo build --release --quiet
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
quickstart=assets/quickstart

# check MODEL TEXT CHUNK_SIZE CHUNKS
check() {
    "$CARGO_TARGET_DIR/release/llama-imatrix" -m "$1" -f "$2" -c "$3" --chunks "$4" --no-ppl \
        --logit-lens --logit-prism --layer-similarity --lens-tokens "$3" -o "$folder/imatrix.gguf" -lv 1 >"$folder/log"
    "$venv/bin/python" scripts/check_lens.py "$1" "$2" "$folder/imatrix.lens.json"
}

failed=""
check $quickstart/quickstart.gguf $quickstart/calibration.txt 512 3 || failed=" the bundled model"
# Shared experts and MLA; norms after the blocks and soft caps; a recurrence; a parallel block; activation scales.
cargo run --release --quiet --no-default-features --example test-models -- "$folder/models"
for model in deepseek2 gemma2 mamba streams/command-r streams/mpt; do
    check "$folder/models/$model.gguf" "$folder/models/calibration.txt" 64 3 || failed="$failed $model"
done
if [ -n "$failed" ]; then
    echo "numpy computes other numbers for:$failed" >&2
    exit 1
fi

$with_upstream || exit 0
bin=$(scripts/upstream.sh | tail -n 1)
text=$quickstart/held-out.txt
"$bin/llama-quantize" $quickstart/quickstart.gguf "$folder/q4_0.gguf" Q4_0 >"$folder/log" 2>&1
"$bin/llama-perplexity" -m $quickstart/quickstart.gguf -f $text -c 512 --chunks 8 --save-all-logits "$folder/base" \
    >"$folder/log" 2>&1
# The tool ends without waiting for its log, so that at times the last lines are missing.
theirs=""
for _ in 1 2 3 4 5 6 7 8; do
    [ -z "$theirs" ] || break
    theirs=$("$bin/llama-perplexity" -m "$folder/q4_0.gguf" -f $text -c 512 --kl-divergence \
        --kl-divergence-base "$folder/base" 2>&1 | awk '/Mean +KLD:/ { print $3 }')
done
"$CARGO_TARGET_DIR/release/llama-imatrix" -m "$folder/q4_0.gguf" -f $text -c 512 --chunks 8 --no-ppl --logit-lens \
    --lens-tokens 512 --kl-divergence-base "$folder/base" -o "$folder/q4_0.imatrix.gguf" -lv 1 >"$folder/log"
ours=$(awk '/^Mean KL of the last layer:/ { print $NF }' "$folder/log")
echo "KL of Q4_0 from the original: llama-perplexity $theirs, the last layer's $ours"
python3 -c 'import sys; a, b = map(float, sys.argv[1:]); sys.exit(abs(a - b) > 1e-4)' "$theirs" "$ours"
