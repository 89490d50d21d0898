#!/usr/bin/env bash
# Runs our llama-imatrix, llama.cpp's and the forward pass alone, in turn, over models of random weights in real sizes. Prints
# tables of medians and ratios to standard output, each run to standard error. docs/performance.md describes the method.
#
#   scripts/bench.sh [--pairs N] [--chunks SHORT,LONG] [--threads N] [--cpu] [--batch N] [MODEL...]   seconds per chunk
#   scripts/bench.sh --memory [MODEL...]                                                  peak memory at default flags
#   scripts/bench.sh --offline [--pairs N] [--cpu]                                        merge, statistics, conversion, 1 GiB
#
#   MODEL             a name that scripts/make-model knows, or a GGUF file; all four if none is given
#   --pairs N         number of runs of each program, in turn (5)
#   --chunks 1,9      the two lengths whose difference counts
#   --threads N       number of threads (2)
#   --batch N         tokens per batch, -b (512); with 2048, upstream's default, --chunks must be multiples of 4 (4,12)
#   --cpu             measure CPU time instead of wall-clock time: for a shared machine. Use --threads 1, since
#                     threads that wait for each other spin
#
# OURS names another program to run instead of the one built here. LLAMA_IMATRIX_UPSTREAM_BIN: see upstream.sh.
# PEER='NAME=PROGRAM [FLAG...]' names further programs to time, separated by ';', such as
# PEER='ik=/opt/ik/llama-imatrix;ik -rtr=/opt/ik/llama-imatrix -rtr'. They must take the flags of llama-imatrix. The table says
# if their files have upstream's bytes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    printf 'bench: %s\n' "$*" >&2
    exit 2
}

usage() { sed -n '2,20s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

parse() {
    flags=() names=() mode=chunks
    while [ $# -gt 0 ]; do
        case "$1" in
        --pairs | --chunks | --threads | --batch)
            [ $# -ge 2 ] || die "$1 wants a value"
            flags+=("$1" "$2")
            shift
            ;;
        --cpu) flags+=("$1") ;;
        --offline | --memory) mode=${1#--} ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) die "unknown argument '$1'" ;;
        *) names+=("$1") ;;
        esac
        shift
    done
    if [ "$mode" = offline ]; then
        [ ${#names[@]} -eq 0 ] || die "--offline has its own file: no models"
        names=(matrix)
    elif [ ${#names[@]} -eq 0 ]; then
        names=(dense-small dense-0.6b moe hybrid)
    fi
}

# Prints NAME=FILE. A file that is older than what makes it is made again.
make_file() {
    if [ -f "$1" ]; then
        printf '%s=%s\n' "$(basename "$1" .gguf)" "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
        return
    fi
    local file="$cache/$1.gguf"
    if [ ! -f "$file" ] || [ -n "$(find "$here/../examples/make-model" -newer "$file" -type f)" ]; then
        echo "making $file" >&2
        "$here/make-model" "$1" "$file" || die "no model is called '$1', and no file"
    fi
    printf '%s=%s\n' "$1" "$file"
}

# Copied out of the build folder, which another shell may build into while this runs.
build_ours() {
    ours="$work/llama-imatrix"
    if [ -n "${OURS:-}" ]; then
        [ -x "$OURS" ] || die "OURS=$OURS is no program"
        ours=$(cd "$(dirname "$OURS")" && pwd)/$(basename "$OURS")
        return
    fi
    (cd "$here/.." && cargo build --release --quiet) >&2
    cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$ours"
}

main() {
    parse "$@"
    "$here/setup.sh" --upstream
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    cache="$LLAMA_IMATRIX_CACHE/bench"
    mkdir -p "$cache"
    # Beside the models rather than in /tmp, which may be memory: the offline commands write gigabytes.
    work=$(mktemp -d "$cache/run.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    build_ours
    local upstream name files=()
    upstream=$("$here/upstream.sh" | tail -n 1)
    for name in "${names[@]}"; do
        files+=("$(make_file "$name")")
    done
    cp "$here/../assets/quickstart/calibration.txt" "$work/text.txt"
    # The guard for an empty array: bash before 4.4, macOS's, takes it for unset.
    PYTHONDONTWRITEBYTECODE=1 python3 "$here/bench.py" --mode "$mode" ${flags[@]+"${flags[@]}"} \
        --peers "${PEER:-}" --ours "$ours" --upstream "$upstream" --work "$work" "${files[@]}"
}

main "$@"
