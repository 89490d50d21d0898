#!/usr/bin/env bash
# Makes the files of this folder anew: runs llama.cpp's own tool over the test models.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
tools=$("$root/scripts/upstream.sh" | tail -n 1)
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
cd "$root"
cargo run --quiet --release --no-default-features --example test-models -- "$models"
cd "$models"
for model in *.gguf; do
    name=${model%.gguf}
    # The tool's log thread may lose the end of its output when it exits, so try until the estimate is there.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        "$tools/llama-imatrix" -m "$model" -f calibration.txt -c 128 -b 256 -ub 512 --chunks 4 -t 2 \
            --process-output -o "$here/$name.gguf" >"$name.out" 2>/dev/null
        if grep -q '^Final estimate' "$name.out"; then break; fi
    done
    sed -n 's/^Final estimate: PPL = \([0-9.]*\) .*/\1/p' "$name.out" >"$here/$name.ppl"
    test -s "$here/$name.ppl"
done
