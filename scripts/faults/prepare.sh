# shellcheck shell=bash
# faults.sh and power.sh source this. It prepares a program, its test models and the tracer in $folder.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "system calls are traced on Linux and x86-64 only: not run here" >&2
    exit 0
fi
# shellcheck source=scripts/env.sh
. scripts/env.sh
if [ -z "${LLAMA_IMATRIX:-}" ]; then
    cargo build --release --bin llama-imatrix
    LLAMA_IMATRIX="$CARGO_TARGET_DIR/release/llama-imatrix"
fi
if [ -n "${KEEP:-}" ]; then
    mkdir -p "$KEEP"
    folder=$(cd "$KEEP" && pwd)
else
    folder=$(mktemp -d "${TMPDIR:-/tmp}/faults.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
fi
"${CC:-cc}" -O2 -o "$folder/calls" scripts/faults/calls.c
if [ ! -e "$folder/models" ]; then
    cargo run --release --quiet --no-default-features --example test-models -- "$folder/models"
fi
