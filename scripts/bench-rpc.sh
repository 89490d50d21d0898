#!/usr/bin/env bash
# Runs our and llama.cpp's llama-imatrix in turn, with the layers on a worker on this machine. Prints a table of bytes over
# loopback and seconds per chunk to standard output. Linux only: the bytes are the kernel's count of the loopback interface,
# so no other program may use that interface during the run.
#
#   scripts/bench-rpc.sh [--pairs N] [--chunks SHORT,LONG] [--threads N] [--cpu] [--delay MS] [--rate MBIT] [MODEL...]
#
#   MODEL             a name that scripts/make-model knows, or a GGUF file; dense-0.6b and moe if none is given
#   --pairs N         number of runs of each program, in turn (3)
#   --chunks 2,6      the two lengths whose difference counts
#   --threads N       threads of the worker (2)
#   --cpu             measure CPU time of program and worker instead of wall-clock time: for a shared machine. Use
#                     --threads 1, since threads that wait for each other spin
#   --delay MS        a network with this delay per direction, in milliseconds. With --delay or --rate the programs reach the
#                     worker through scripts/rpc_proxy.py, which needs no netem in the kernel; the table also has round trips,
#                     and standard error has bytes and number of each command
#   --rate MBIT       and with this many megabits per second
#
# Each program uses the worker of its own build, since the two versions of llama.cpp have different versions of the protocol:
# ours is `llama-imatrix worker`, upstream's `ggml-rpc-server`. Both are ggml's RPC server over the CPU. OURS names another
# program to run instead of the one built here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
    printf 'bench-rpc: %s\n' "$*" >&2
    exit 2
}

usage() { sed -n '2,21s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

flags=() names=()
while [ $# -gt 0 ]; do
    case "$1" in
    --pairs | --chunks | --threads | --delay | --rate)
        [ $# -ge 2 ] || die "$1 wants a value"
        flags+=("$1" "$2")
        shift
        ;;
    --cpu) flags+=("$1") ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*) die "unknown argument '$1'" ;;
    *) names+=("$1") ;;
    esac
    shift
done
[ ${#names[@]} -gt 0 ] || names=(dense-0.6b moe)
[ -r /proc/net/dev ] || die "there is no /proc/net/dev to count bytes with"

"$here/setup.sh" --upstream
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cache="$LLAMA_IMATRIX_CACHE/bench"
mkdir -p "$cache"
work=$(mktemp -d "$cache/rpc.XXXXXX")
trap 'rm -rf "$work"' EXIT
ours=${OURS:-}
if [ -z "$ours" ]; then
    (cd "$here/.." && cargo build --release --quiet) >&2
    # Copied out of the build folder, which another shell may build into while this runs.
    cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$work/llama-imatrix"
    ours="$work/llama-imatrix"
fi
upstream=$("$here/upstream.sh" --rpc | tail -n 1)
files=()
for name in "${names[@]}"; do
    file=$name
    if [ ! -f "$file" ]; then
        file="$cache/$name.gguf"
        [ -f "$file" ] || "$here/make-model" "$name" "$file" || die "no model is called '$name', and no file"
    fi
    files+=("$(basename "$file" .gguf)=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")")
done
cp "$here/../assets/quickstart/calibration.txt" "$work/text.txt"
# The guard for an empty array: bash before 4.4 takes it for unset.
PYTHONDONTWRITEBYTECODE=1 python3 "$here/bench_rpc.py" ${flags[@]+"${flags[@]}"} \
    --ours "$ours" --upstream "$upstream/llama-imatrix" --upstream-server "$upstream/ggml-rpc-server" --work "$work" "${files[@]}"
