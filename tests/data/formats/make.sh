#!/usr/bin/env bash
# Makes the golden files of cases.txt with upstream's llama-imatrix, for which see README.md.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tool=$("$here/../../../scripts/upstream.sh" | tail -n 1)/llama-imatrix
inputs=$(mktemp -d)
trap 'rm -rf "$inputs"' EXIT

cd "$here/../../.."
FORMATS_INPUTS=$inputs cargo test --release --no-default-features --test integration -- \
    --exact formats::inputs::generated_inputs_are_deterministic
cd "$inputs"

while read -r golden kind ctx exit files; do
    case $golden in '' | '#'*) continue ;; esac
    list=$(echo "$files" | tr ' ' ,)
    status=0
    # Upstream wants a model named even where it loads none.
    common=(-m none.gguf -c "$ctx" --in-file "$list")
    case $kind in
    gguf | dat)
        "$tool" "${common[@]}" --output-format "$kind" -o "$here/$golden" >log 2>&1 || status=$?
        ;;
    stats)
        "$tool" "${common[@]}" --show-statistics >"$here/$golden" 2>log || status=$?
        ;;
    esac
    if [ "$status" != "$exit" ]; then
        cat log
        echo "$golden: exit code $status, cases.txt says $exit" >&2
        exit 1
    fi
done <"$here/cases.txt"
