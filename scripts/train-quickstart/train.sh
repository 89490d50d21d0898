#!/usr/bin/env bash
# Makes assets/quickstart/: environment, text, vocabulary, training, export, evaluation.
#
#   train.sh [ASSETS]    WORK names the folder for the checkpoint and other temporary
#                        files; an interrupted run continues from there
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
assets=${1:-$here/../../assets/quickstart}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/llama-imatrix
work=${WORK:-$cache/train-quickstart}
python=$cache/venv/bin/python
export PYTHONDONTWRITEBYTECODE=1

command -v bible >/dev/null || {
    echo "train.sh: the text is missing: apt-get install bible-kjv bible-kjv-text" >&2
    exit 1
}

[[ -x $python ]] || python3 -m venv "$cache/venv"
"$python" -m pip install --quiet --requirement "$here/requirements.txt"

mkdir -p "$work" "$assets"
"$python" "$here/data.py" "$work"
"$python" "$here/tokenizer.py" "$work/train.txt" "$work/tokenizer.json"
"$python" "$here/train.py" "$work" "$work/checkpoint.pt"
"$python" "$here/export.py" "$work/checkpoint.pt" "$work/tokenizer.json" "$assets/quickstart.gguf"
cp "$work/calibration.txt" "$work/held-out.txt" "$assets/"
"$here/evaluate.sh" "$assets"
