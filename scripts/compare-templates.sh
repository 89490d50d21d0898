#!/usr/bin/env bash
# Renders conversations through the chat templates in llama.cpp's sources, with our renderer and with Python's Jinja,
# configured as in Hugging Face's transformers, and compares the texts.
#
# usage: scripts/compare-templates.sh [TEMPLATE...]
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

cache=$LLAMA_IMATRIX_CACHE
packages=$cache/templates-python
if ! [ -d "$packages" ]; then
    pip=(python3 -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        [ -x "$cache/pip/bin/pip" ] || python3 -m venv "$cache/pip"
        pip=("$cache/pip/bin/pip")
    fi
    "${pip[@]}" install --quiet --target "$packages.part" 'jinja2==3.1.6'
    mv "$packages.part" "$packages"
fi
if [ $# -eq 0 ]; then
    tools=$(scripts/upstream.sh)
    sources=$(find "$cache/upstream" -maxdepth 4 -type d -path '*/thirdparty/llama.cpp' -print -quit)
    set -- "$sources"/models/templates/*.jinja
    [ -f "$1" ] || { echo "no templates beside $tools" >&2; exit 1; }
fi
cargo build --release --no-default-features --features chat --example render-chat
PYTHONPATH=$packages python3 scripts/compare_templates.py --program "${CARGO_TARGET_DIR:-target}/release/examples/render-chat" "$@"
