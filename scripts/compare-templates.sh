#!/usr/bin/env bash
# Renders conversations through the chat templates that come with llama.cpp's sources, with our renderer and with
# Python's Jinja set up as Hugging Face's transformers does, and compares the texts.
#
# usage: scripts/compare-templates.sh [TEMPLATE...]
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/llama-imatrix
python=$cache/templates-venv/bin/python
if ! "$python" -c 'import jinja2' 2>/dev/null; then
    python3 -m venv "$cache/templates-venv"
    "$python" -m pip install --quiet 'jinja2==3.1.6'
fi
if [ $# -eq 0 ]; then
    tools=$(scripts/upstream.sh)
    sources=$(find "$cache/upstream" -maxdepth 4 -type d -path '*/llama.cpp' -print -quit)
    set -- "$sources"/models/templates/*.jinja
    [ -f "$1" ] || { echo "no templates beside $tools" >&2; exit 1; }
fi
cargo build --release --no-default-features --features chat --example render-chat
"$python" scripts/compare_templates.py --program "${CARGO_TARGET_DIR:-target}/release/examples/render-chat" "$@"
