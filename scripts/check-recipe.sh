#!/usr/bin/env bash
# Gives llama.cpp's llama-quantize each recipe, and compares: the file must have the predicted size to the byte, every tensor the
# recipe's type, and llama-perplexity must load it.
#
#   scripts/check-recipe.sh [DIR]
#   scripts/check-recipe.sh --large [DIR]    time and memory for a model of 8 billion weights and one with half of its layers: needs
#                                            14 GB of disk; the models are removed
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

# large: recipes of random models in Q8_0. Ten minutes and 4 GiB are the limits on two cores.
large() {
    local name elapsed cpu memory
    [ -x /usr/bin/time ] || die "--large needs GNU time, /usr/bin/time"
    for name in dense-8b-half dense-8b; do
        "$here/make-model" "$name" "$name.gguf"
        # The values of the matrix do not matter here.
        "$ours" -m "$name.gguf" -f "$root/assets/quickstart/calibration.txt" -c 64 -b 64 --chunks 1 --no-ppl --process-output \
            -o "$name.imatrix.gguf" >/dev/null 2>&1 || die "no matrix of $name"
        /usr/bin/time --quiet -o usage -f '%e %U %S %M' "$ours" recipe "$name.gguf" "$name.imatrix.gguf" --bpw 4.25 -t 2 -o types.txt \
            >recipe.txt 2>recipe.log || die "recipe $name failed: $(tail -n 1 recipe.log)"
        read -r elapsed cpu memory < <(awk '{ printf "%d %d %d\n", $1, $2 + $3, $4 / 1024 }' usage)
        printf '%-14s %s; %d s, %d s of CPU time, %d MiB\n' "$name" "$(grep '^File: ' recipe.txt)" "$elapsed" "$cpu" "$memory"
        if [ "$cpu" -ge 1200 ] || [ "$memory" -ge 4096 ]; then
            die "$name: more than ten minutes of two cores, or more than 4 GiB"
        fi
        rm -f "$name.gguf"
    done
}

main() {
    local mode=small
    if [ "${1:-}" = --large ]; then
        mode=large
        shift
    fi
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours=$(llama_imatrix_program)
    llama_imatrix_work_folder "${1:-}"
    cd "$work"
    if [ "$mode" = large ]; then
        large
        return
    fi
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
