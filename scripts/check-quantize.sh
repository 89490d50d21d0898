#!/usr/bin/env bash
# Compares what `llama-imatrix check --type` predicts with what llama.cpp's llama-quantize does, on models and matrices made
# for this: the type of every tensor, for every type; and whether it refuses each matrix, for which tensor and why. Then
# times `check` on a sparse model of 100 GB (check_large.py).
#
#   scripts/check-quantize.sh [--full] [--only PATTERN] [--golden FILE]
#
#   --full           every type with every matrix, by the unchanged program (an hour on two cores). Without it: every
#                    type with every matrix of two models and six types with those of the others, and the function that
#                    quantizes rows is replaced by one that writes zeros, since setting up its tables takes seconds
#   --only PATTERN   only the models whose name matches
#   --golden FILE    also write what llama-quantize did, for the tests (tests/data/check/make.sh)
#
# Environment: LLAMA_IMATRIX_BIN, the program to check instead of the one built here; LLAMA_IMATRIX_TEST_MODELS, a folder
# made by the example test-models; LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    printf 'check-quantize: %s\n' "$*" >&2
    exit 2
}

make_models() {
    models="${LLAMA_IMATRIX_TEST_MODELS:-$work/models}"
    [ -z "${LLAMA_IMATRIX_TEST_MODELS:-}" ] || return 0
    mkdir "$models"
    (cd "$here/.." && cargo run --release --quiet --no-default-features --example test-models -- "$models") >&2
}

# A library that is loaded before ggml's: its quantizer of rows writes zeros.
make_stub() {
    cat >"$work/stub.c" <<'C'
#include <stdint.h>
#include <string.h>
size_t ggml_row_size(int type, int64_t n);
size_t ggml_quantize_chunk(int type, const float * src, void * dst, int64_t start, int64_t rows, int64_t n, const float * imatrix) {
    (void) src; (void) start; (void) imatrix;
    memset(dst, 0, rows * ggml_row_size(type, n));
    return rows * ggml_row_size(type, n);
}
C
    "${CC:-cc}" -shared -fPIC -o "$work/stub.so" "$work/stub.c" || die "cannot compile the replaced quantizer"
}

main() {
    local full='' only='*' golden=''
    while [ $# -gt 0 ]; do
        case "$1" in
        --full) full=--full ;;
        --only | --golden)
            [ $# -ge 2 ] || die "$1 wants a value"
            if [ "$1" = --only ]; then only=$2; else golden=$2; fi
            shift
            ;;
        -h | --help)
            sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1'" ;;
        esac
        shift
    done
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    local upstream ours
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours="${LLAMA_IMATRIX_BIN:-}"
    if [ -z "$ours" ]; then
        (cd "$here/.." && cargo build --release --quiet) >&2
        ours="$work/llama-imatrix"
        cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$ours"
    fi
    make_models
    make_stub
    ulimit -c 0
    # shellcheck disable=SC2086
    python3 "$here/check_quantize.py" --quantize "$upstream/llama-quantize" --ours "$ours" --models "$models/check" \
        --stub "$work/stub.so" --work "$work" --only "$only" --golden "$golden" $full
    python3 "$here/check_large.py" "$ours" "$work"
}

main "$@"
