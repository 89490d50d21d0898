#!/usr/bin/env bash
# Measures on a machine with CUDA, from the files of pack.sh: builds ggml's CUDA backend, which both programs load, makes models
# of random weights, and prints a table. Needs no Rust and no network. Each step runs once and can be called separately.
#
#   ./run.sh [backend] [models] [measure]     default: all of them, in this order
#
#   ARCHS=90-real         the GPU's architecture (default: from nvidia-smi)
#   WORK=/big/disk        folder of builds and models (./work); the models need 24 GB
#   MODELS="dense-8b"     names that make-model knows (dense-8b moe-15b)
#   MEASURE="--pairs 1"   further arguments of measure.py
#
# With 16 cores the backend takes three and a half minutes, and the models half a minute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${WORK:-$here/work}
mkdir -p "$work"

say() { printf '\n== %s\n' "$*" >&2; }

archs() {
    if [ -z "${ARCHS:-}" ]; then
        ARCHS=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')-real
    fi
    printf '%s' "$ARCHS"
}

# Of the sources that the program is built with, since the two share ggml's structures. With CUDA graphs, as llama.cpp builds
# it: ggml's own default is without.
backend() {
    local generator=()
    if [ ! -e "$here/bin/libggml-cuda.so" ]; then
        say "the CUDA backend"
        ! command -v ninja >/dev/null 2>&1 || generator=(-G Ninja)
        cmake -S "$here/backend" -B "$work/backend" ${generator[@]+"${generator[@]}"} -DCMAKE_BUILD_TYPE=Release \
            -DGGML_CUDA=ON -DGGML_CUDA_GRAPHS=ON -DGGML_CUDA_NCCL=OFF -DCMAKE_CUDA_ARCHITECTURES="$(archs)" \
            -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU=OFF >"$work/backend.log" 2>&1 || failed
        cmake --build "$work/backend" -j "$(nproc)" --target ggml-cuda >>"$work/backend.log" 2>&1 || failed
        cp "$(find "$work/backend" -name libggml-cuda.so | head -n 1)" "$here/bin/"
    fi
    cp "$here/bin/libggml-cuda.so" "$here/upstream/lib/"
}

failed() {
    tail -n 30 "$work/backend.log" >&2
    exit 1
}

models() {
    local name
    for name in ${MODELS:-dense-8b moe-15b}; do
        [ ! -f "$work/$name.gguf" ] || continue
        say "$name"
        "$here/bin/make-model" "$name" "$work/$name.gguf"
    done
}

# Word splitting of MODELS and MEASURE is meant.
# shellcheck disable=SC2086
measure() {
    local name files=()
    for name in ${MODELS:-dense-8b moe-15b}; do files+=("$work/$name.gguf"); done
    say "measuring"
    PYTHONDONTWRITEBYTECODE=1 python3 "$here/measure.py" --ours "$here/bin/llama-imatrix" --upstream "$here/upstream" \
        --text "$here/text.txt" --work "$work" ${MEASURE:-} "${files[@]}"
}

[ $# -gt 0 ] || set -- backend models measure
for step in "$@"; do
    case "$step" in
    backend | models | measure) "$step" ;;
    *)
        sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    esac
done
