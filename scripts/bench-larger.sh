#!/usr/bin/env bash
# Runs our and llama.cpp's llama-imatrix on models larger than memory: in a control group whose memory is a part of the model's
# size, from a disk of limited speed. Prints a table of bytes read and tokens per second to standard output, each run to standard
# error. docs/larger-than-memory.md describes the method.
#
#   scripts/bench-larger.sh [--limits 0.5,0.25] [--rate MB] [--chunks N] [--slow-chunks N] [--threads N] [--ppl] [MODEL...]
#
#   MODEL             a name that scripts/make-model knows, or a GGUF file; dense-4g and moe-4g if none is given
#   --limits 0.5,0.25 memory of the group, as parts of the model's size
#   --rate 200        speed of the disk in MB per second; 0 for no limit
#   --chunks 32       chunks of the runs with -ub auto, and of upstream with the same -b -ub
#   --slow-chunks 4   chunks of the runs with -ub 512
#   --threads N       number of threads (2)
#   --ppl             with perplexity
#
# Needs Linux, control groups (version 1 or 2) with memory and, for --rate, blkio or io, and root, or sudo. Only the model's own
# pages are dropped from the page cache. OURS names another program to run instead of the one built here.
# LLAMA_IMATRIX_UPSTREAM_BIN: see upstream.sh.
set -euo pipefail

# shellcheck source=scripts/as-root.sh
. "$(dirname "${BASH_SOURCE[0]}")/as-root.sh"

die() {
    printf 'bench-larger: %s\n' "$*" >&2
    exit 2
}

flags=() names=()
while [ $# -gt 0 ]; do
    case "$1" in
    --limits | --rate | --chunks | --slow-chunks | --threads)
        [ $# -ge 2 ] || die "$1 wants a value"
        flags+=("$1" "$2")
        shift
        ;;
    --ppl) flags+=("$1") ;;
    -*) die "unknown argument '$1'" ;;
    *) names+=("$1") ;;
    esac
    shift
done
[ ${#names[@]} -gt 0 ] || names=(dense-4g moe-4g)

cache="$LLAMA_IMATRIX_CACHE/bench"
mkdir -p "$cache"
work=$(mktemp -d "$cache/larger.XXXXXX")
trap 'rm -rf "$work"' EXIT
ours=${OURS:-}
if [ -z "$ours" ]; then
    cargo build --release --quiet --bin llama-imatrix >&2
    # Copied out of the build folder, which another shell may build into while this runs.
    cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$work/llama-imatrix"
    ours="$work/llama-imatrix"
fi
upstream=$(scripts/upstream.sh | tail -n 1)
files=()
for name in "${names[@]}"; do
    file=$name
    if [ ! -f "$file" ]; then
        file="$cache/$name.gguf"
        [ -f "$file" ] || scripts/make-model "$name" "$file" || die "no model is called '$name', and no file"
    fi
    files+=("$(basename "$file" .gguf)=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")")
done
cp assets/quickstart/calibration.txt "$work/text.txt"
# The guard for an empty array: bash before 4.4 takes it for unset.
PYTHONDONTWRITEBYTECODE=1 python3 scripts/bench_larger.py ${flags[@]+"${flags[@]}"} \
    --ours "$ours" --upstream "$upstream/llama-imatrix" --work "$work" "${files[@]}"
