#!/usr/bin/env bash
# Gives llama.cpp's llama-quantize each recipe, and compares: the file must have the predicted size to the byte, every tensor the
# recipe's type, and llama-perplexity must load it.
#
#   scripts/check-recipe.sh [DIR]
#
# DIR keeps the files; by default a temporary folder. Environment: LLAMA_IMATRIX_BIN, the program to check instead of the one
# built here; LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

die() {
    printf 'check-recipe: %s\n' "$*" >&2
    exit 1
}

# check MODEL MATRIX FLAG...: one recipe
check() {
    local model=$1 matrix=$2 predicted written types
    shift 2
    "$ours" recipe "$model" "$matrix" "$@" -o types.txt --format json >recipe.json || die "recipe $model $* failed"
    predicted=$(sed -n 's/^  "file_bytes": \([0-9]*\),$/\1/p' recipe.json)
    types=$(grep -c . types.txt)
    # The last word is the preset.
    preset=$(sed -n '/"command"/,/]/p' recipe.json | grep '"' | tail -n 1 | sed 's/[^A-Za-z0-9_]//g')
    "$upstream/llama-quantize" --allow-requantize --imatrix "$matrix" --tensor-type-file types.txt "$model" out.gguf "$preset" \
        >quantize.log 2>&1 || {
        tail -n 5 quantize.log >&2
        die "llama-quantize refuses the recipe of $model $*"
    }
    written=$(wc -c <out.gguf)
    [ "$predicted" -eq "$written" ] || die "$model $*: predicted $predicted bytes, llama-quantize wrote $written"
    if grep -q 'falling back' quantize.log; then
        die "$model $*: llama-quantize fell back to another type: $(grep -m 1 'falling back' quantize.log)"
    fi
    python3 "$here/recipe_types.py" types.txt out.gguf || die "$model $*: types differ"
    printf '%-24s %-44s %9d bytes, %3d types: equal\n' "$(basename "$model")" "$*" "$written" "$types"
}

main() {
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours=$(llama_imatrix_program)
    work=${1:-}
    if [ -z "$work" ]; then
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
    fi
    mkdir -p "$work"
    cd "$work"
    [ -d models ] || (cd "$root" && cargo run --release --no-default-features --example test-models -- "$work/models" >&2)
    local name first second
    for name in llama qwen3moe deepseek2 gemma3 gemma2 mamba lfm2 qwen2 gpt2; do
        [ -f "$name.imatrix.gguf" ] || "$ours" -m "models/$name.gguf" -f models/calibration.txt -c 128 --chunks 4 --no-ppl \
            --process-output -o "$name.imatrix.gguf" >/dev/null 2>&1 || die "no matrix of $name"
        first=7 second=8
        # Most of its rows fit no type of few bits.
        [ "$name" != gpt2 ] || first=8.4 second=8.8
        check "models/$name.gguf" "$name.imatrix.gguf" --bpw "$first"
        check "models/$name.gguf" "$name.imatrix.gguf" --bpw "$second" --no-fuse --types q4_0,q5_K,q8_0,f16
    done
    local model=$root/assets/quickstart/quickstart.gguf
    ln -sf "$model" quickstart.gguf
    [ -f quickstart.imatrix.gguf ] || "$ours" -m quickstart.gguf -f "$root/assets/quickstart/calibration.txt" -c 512 --chunks 20 \
        --no-ppl --process-output -o quickstart.imatrix.gguf >/dev/null 2>&1
    for bits in 2.2 2.6 3.1 4.25 5.5 7.9; do
        check quickstart.gguf quickstart.imatrix.gguf --bpw "$bits"
    done
    check quickstart.gguf quickstart.imatrix.gguf --size 2300000 --exact
    "$upstream/llama-perplexity" -m out.gguf -f "$root/assets/quickstart/held-out.txt" -c 512 --chunks 2 >load.log 2>&1 ||
        die "llama-perplexity does not load the file"
    "$ours" -m quickstart.gguf -f "$root/assets/quickstart/calibration.txt" -c 512 --chunks 20 --no-ppl --output-format dat \
        -o quickstart.dat >/dev/null 2>&1
    check quickstart.gguf quickstart.dat --bpw 4
    echo "check-recipe: all equal"
}

main "$@"
