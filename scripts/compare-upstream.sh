#!/usr/bin/env bash
# Runs llama.cpp's llama-imatrix and ours on every test model with many sets of flags. Compares the files they write,
# their standard output and their exit codes. Fails on any difference that compare-upstream.allow does not list.
#
#   scripts/compare-upstream.sh [--only PATTERN] [--lanes LIST] [--keep DIR]
#
#   --only PATTERN   run only the cases that match, for example 'llama/*' or '*/merge'
#   --lanes LIST     run ours with each of these numbers of lanes (default 1,2,3): all must give the same bytes
#   --keep DIR       keep each run's files, standard output and standard error in DIR (new or empty)
#
# Environment: LLAMA_IMATRIX_BIN, the program to compare instead of the one built here; LLAMA_IMATRIX_TEST_MODELS, a
# folder with *.gguf and calibration.txt to use instead of the ones made here; LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    printf 'compare-upstream: %s\n' "$*" >&2
    exit 2
}

usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

parse() {
    only='*' keep='' lanes=1,2,3
    while [ $# -gt 0 ]; do
        case "$1" in
        --only | --keep | --lanes)
            [ $# -ge 2 ] || die "$1 wants a value"
            case "$1" in
            --only) only=$2 ;;
            --keep) keep=$2 ;;
            --lanes) lanes=$2 ;;
            esac
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown argument '$1'" ;;
        esac
        shift
    done
}

make_work_folder() {
    if [ -n "$keep" ]; then
        mkdir -p "$keep"
        [ -z "$(ls -A "$keep")" ] || die "$keep is not empty"
        work=$(cd "$keep" && pwd)
    else
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
    fi
}

# Copied out of the build folder, which another checkout or another shell may build into while this runs.
build_ours() {
    ours="$work/llama-imatrix"
    if [ -n "${LLAMA_IMATRIX_BIN:-}" ]; then
        ours=$(cd "$(dirname "$LLAMA_IMATRIX_BIN")" && pwd)/$(basename "$LLAMA_IMATRIX_BIN")
        [ -x "$ours" ] || die "LLAMA_IMATRIX_BIN=$LLAMA_IMATRIX_BIN is no program"
        return
    fi
    (cd "$here/.." && cargo build --release --quiet) >&2
    cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$ours"
}

make_models() {
    models="${LLAMA_IMATRIX_TEST_MODELS:-$work/models}"
    [ -z "${LLAMA_IMATRIX_TEST_MODELS:-}" ] || return 0
    mkdir "$models"
    # Without llama.cpp: the models are made by our own writer.
    (cd "$here/.." && cargo run --release --quiet --no-default-features --example test-models -- "$models") >&2
}

# Exactness is a property of the program that is compared with. On x86-64 upstream's collector has a multiplication and
# an addition, as ours has; where fused multiply-add is part of the baseline, compilers fuse the two in C++, so sums there
# differ by rounding, and statistics of them by somewhat more.
bound_here() {
    case "$(uname -m)" in
    x86_64 | amd64) echo 0 ;;
    *) echo 1e-4 ;;
    esac
}

main() {
    parse "$@"
    "$here/setup.sh" --upstream
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    make_work_folder
    build_ours
    make_models
    "$here/exit-delay.sh" "$work/exit-delay.so"
    local upstream bound
    upstream=$("$here/upstream.sh" | tail -n 1)
    bound=$(bound_here)
    [ "$bound" = 0 ] || echo "on $(uname -m) numbers may differ by $bound: see bound_here in this script"
    ulimit -c 0 # some of upstream's runs abort
    export PYTHONDONTWRITEBYTECODE=1
    python3 "$here/compare_upstream.py" --upstream "$upstream/llama-imatrix" --ours "$ours" --models "$models" \
        --work "$work/cases" --exit-library "$work/exit-delay.so" --allow "$here/compare-upstream.allow" --only "$only" --bound "$bound" \
        --lanes "$lanes"
}

main "$@"
