#!/usr/bin/env bash
# Makes the files of this folder anew: runs llama.cpp's own tool, repaired by tool.sh, over the test models.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tool=$("$here/tool.sh" | tail -n 1)
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
cd "$here/../../.."
cargo run --quiet --release --no-default-features --example test-models -- "$models"
cd "$models"

# make NAME FLAGS...
make() {
    local name=$1
    shift
    # The tool's log thread may lose the end of its output when it exits, so try until the estimate is there.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        "$tool" "$@" -f calibration.txt -c 128 -ub 512 --chunks 4 -t 2 -o "$here/$name.gguf" >"$name.out" 2>/dev/null
        if grep -q '^Final estimate' "$name.out"; then break; fi
    done
    sed -n 's/^Final estimate: PPL = \([0-9.]*\) .*/\1/p' "$name.out" >"$here/$name.ppl"
    test -s "$here/$name.ppl"
}

make whole -m nextn/nextn.gguf --nextn -b 128
make parts -m nextn/nextn.gguf --nextn -b 48
make hybrid -m nextn/nextn-hybrid.gguf --nextn -b 64
make pair -m nextn/nextn-trunk.gguf --model-draft nextn/draft-head.gguf -b 64 --process-output
