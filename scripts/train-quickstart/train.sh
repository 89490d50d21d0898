#!/usr/bin/env bash
# Trains a model: environment, text, vocabulary, training, export; of the bundled model also its texts and its evaluation.
#
#   train.sh [--model quickstart|moe|dense] [--threads N] [OUT]
#
# OUT is the folder of the results: assets/quickstart for the bundled model, which is the default, and
# ~/.cache/llama-imatrix/models/MODEL for the others. WORK names the folder for the checkpoint and other temporary files; an
# interrupted run continues from there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/llama-imatrix
python=$cache/venv/bin/python
export PYTHONDONTWRITEBYTECODE=1

die() {
    printf 'train.sh: %s\n' "$*" >&2
    exit 1
}

parse() {
    model=quickstart threads=2 out=
    while [ $# -gt 0 ]; do
        case $1 in
        --model) model=${2:?--model needs a name} && shift ;;
        --threads) threads=${2:?--threads needs a number} && shift ;;
        -*) die "unknown flag $1; hint: train.sh [--model quickstart|moe|dense] [--threads N] [OUT]" ;;
        *) out=$1 ;;
        esac
        shift
    done
    case $model in
    quickstart) work=${WORK:-$cache/train-quickstart} out=${out:-$here/../../assets/quickstart} ;;
    moe | dense) work=${WORK:-$cache/models/$model/work} out=${out:-$cache/models/$model} ;;
    *) die "unknown model $model: expected quickstart, moe or dense" ;;
    esac
}

main() {
    parse "$@"
    command -v bible >/dev/null || die "the text is missing: apt-get install bible-kjv bible-kjv-text"
    [[ -x $python ]] || python3 -m venv "$cache/venv"
    "$python" -m pip install --quiet --requirement "$here/requirements.txt"

    mkdir -p "$work" "$out"
    "$python" "$here/data.py" "$work"
    "$python" "$here/tokenizer.py" "$work/train.txt" "$work/tokenizer.json"
    "$python" "$here/train.py" --model "$model" --threads "$threads" "$work" "$work/checkpoint.pt"
    "$python" "$here/export.py" --model "$model" "$work/checkpoint.pt" "$work/tokenizer.json" "$out/$model.gguf"
    [ "$model" = quickstart ] || return 0
    cp "$work/calibration.txt" "$work/held-out.txt" "$out/"
    "$here/evaluate.sh" "$out"
}

main "$@"
