#!/usr/bin/env bash
# Builds upstream's llama-imatrix with NextN working, and prints its path as the last line of standard output.
#
# The pinned tool aborts in every run that decodes a NextN layer ("this graph requires a state embedding"): its library
# takes hidden states by llama_batch_ext_set_embd_state(), the tool still hands them over as token embeddings. This
# changes the two calls, compiles that one file again and links it with upstream's own libraries.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$("$here/../../../scripts/upstream.sh" | tail -n 1)
build=$(dirname "$bin")
source=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt")
out="$build/nextn"
tool="$out/llama-imatrix"
if [ ! -x "$tool" ] || [ "$tool" -ot "$bin/llama-imatrix" ]; then
    mkdir -p "$out"
    sed 's/batch\.set_embd(idx/batch.set_embd_state(idx/' "$source/tools/imatrix/imatrix.cpp" >"$out/imatrix.cpp"
    [ "$(grep -c 'set_embd_state(idx' "$out/imatrix.cpp")" = 2 ] || {
        echo "tool.sh: imatrix.cpp does not have the two calls: has upstream changed it?" >&2
        exit 1
    }
    # The file includes its headers relative to the folder it lies in.
    sed "s|\"../src/llama-ext.h\"|\"$source/src/llama-ext.h\"|" "$out/imatrix.cpp" >"$out/patched.cpp"
    "${CXX:-c++}" -O3 -DNDEBUG -std=c++17 -I"$source/include" -I"$source/ggml/include" -I"$source/common" \
        -I"$source/vendor" "$out/patched.cpp" -o "$tool.new" -L"$bin" -lllama-common -lllama -lggml -lggml-base \
        -Wl,-rpath,"$bin" -lpthread >&2
    mv "$tool.new" "$tool"
fi
printf '%s\n' "$tool"
