#!/usr/bin/env bash
# On a machine with CUDA, from what pack.sh has packed: builds ggml's CUDA backend for our program and llama.cpp's tools with
# it, makes models of random weights, and prints a table. No Rust, no network. Each step is done once and can be called by
# itself.
#
#   ./run.sh [backend] [tools] [models] [measure]     all of them, in this order, if none is named
#
#   ARCHS=90              the GPU's kind (nvidia-smi tells unless set)
#   WORK=/big/disk        where builds and models go (./work); 24 GB for the models
#   MODELS="dense-8b"     those that make-model knows (dense-8b moe-15b)
#   MEASURE="--pairs 1"   more for measure.py
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${WORK:-$here/work}
mkdir -p "$work"

say() { printf '\n== %s\n' "$*" >&2; }

archs() {
    if [ -z "${ARCHS:-}" ]; then
        ARCHS=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
    fi
    printf '%s' "$ARCHS"
}

configure() { # SOURCE BUILD FLAGS...
    local source=$1 build=$2 generator=()
    shift 2
    ! command -v ninja >/dev/null 2>&1 || generator=(-G Ninja)
    cmake -S "$source" -B "$build" ${generator[@]+"${generator[@]}"} -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES="$(archs)" -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
        -DLLAMA_CURL=OFF "$@" >"$build.log" 2>&1 || {
        tail -n 30 "$build.log" >&2
        exit 1
    }
}

compile() { # BUILD TARGET...
    local build=$1
    shift
    cmake --build "$build" -j "$(nproc)" --target "$@" >>"$build.log" 2>&1 || {
        tail -n 30 "$build.log" >&2
        exit 1
    }
}

# A library that our program loads. Of the same sources as the program, since the two share ggml's structures.
backend() {
    [ ! -e "$here/bin/libggml-cuda.so" ] || return 0
    say "the CUDA backend"
    configure "$here/llama.cpp" "$work/backend" -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU=OFF \
        -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_APP=OFF
    compile "$work/backend" ggml-cuda
    cp "$(find "$work/backend" -name libggml-cuda.so | head -n 1)" "$here/bin/"
}

tools() {
    say "llama.cpp's tools"
    configure "$here/upstream" "$work/tools"
    compile "$work/tools" llama-imatrix llama-bench
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
    PYTHONDONTWRITEBYTECODE=1 python3 "$here/measure.py" --ours "$here/bin/llama-imatrix" --upstream "$work/tools/bin" \
        --text "$here/text.txt" --work "$work" ${MEASURE:-} "${files[@]}"
}

[ $# -gt 0 ] || set -- backend tools models measure
for step in "$@"; do
    case "$step" in
    backend | tools | models | measure) "$step" ;;
    *)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    esac
done
