#!/usr/bin/env bash
# Checks that other programs read our files: Python's gguf package reads the GGUF matrix; candle reads the legacy one and
# quantizes with the first; with --with-upstream, llama-quantize reads one too.
#
#   scripts/check-interop.sh [--with-upstream]
#
# Collects over the bundled model first. Installs gguf from PyPI in a virtual environment and candle-core from crates.io
# in a separate project (tests/interop). Both are kept in ~/.cache/llama-imatrix/interop.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
gguf_version=0.19.0

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

with_upstream=no
case "${1:-}" in
"") ;;
--with-upstream) with_upstream=yes ;;
-h | --help)
    usage
    exit 0
    ;;
*)
    echo "check-interop: unknown argument '$1'" >&2
    exit 1
    ;;
esac

"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cache=$LLAMA_IMATRIX_CACHE/interop
mkdir -p "$cache"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cd "$root"
cargo build --quiet --release
program=$CARGO_TARGET_DIR/release/llama-imatrix
model=assets/quickstart/quickstart.gguf
head -c 40000 assets/quickstart/calibration.txt >"$scratch/text"
"$program" -m "$model" -f "$scratch/text" -c 256 --no-ppl -o "$scratch/matrix.gguf" >/dev/null 2>&1
"$program" --in-file "$scratch/matrix.gguf" --output-format dat -o "$scratch/matrix.dat" >/dev/null 2>&1

# Outside the checkout's configuration it would be another build: this one is of no speed that matters.
CARGO_TARGET_DIR=$cache/target cargo build --quiet --manifest-path tests/interop/Cargo.toml
interop=$cache/target/debug/interop

python=$cache/venv/bin/python
if ! "$python" -c "import gguf, importlib.metadata as m; assert m.version('gguf') == '$gguf_version'" 2>/dev/null; then
    python3 -m venv --clear "$cache/venv"
    "$python" -m pip install --quiet "gguf==$gguf_version"
fi
"$interop" dump "$scratch/matrix.gguf" >"$scratch/dump"
"$python" tests/interop/read_gguf.py "$scratch/matrix.gguf" "$scratch/dump"
"$interop" candle "$scratch/matrix.dat" "$scratch/matrix.gguf"

if [ "$with_upstream" = yes ]; then
    "$here/show-quantize.sh" # of the whole text
fi
