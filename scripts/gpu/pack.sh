#!/usr/bin/env bash
# Packs the files that scripts/gpu/run.sh needs on a machine with CUDA and without Rust or network: our program and llama.cpp's
# tools, both with backends loaded at start, the sources of ggml's CUDA backend, and the programs that make models and a text.
#
#   scripts/gpu/pack.sh [FILE]        default: imatrix-gpu.tar.xz; about 20 MB
#
# On that machine: tar -xf imatrix-gpu.tar.xz && imatrix-gpu/run.sh
#
# The builds have separate folders in ~/.cache/llama-imatrix. llama.cpp is compiled twice more, as shared libraries and
# for several kinds of CPU: twenty minutes on two cores. The programs run on any x86-64 that has AVX2.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
file=${1:-imatrix-gpu.tar.xz}
case "$file" in -*)
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
file=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")

say() { printf 'pack: %s\n' "$*" >&2; }

"$root/scripts/setup.sh" --upstream
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"
llama_imatrix_mend_amx # one of ggml's variants uses AMX, whatever this machine has
export CARGO_TARGET_DIR="$LLAMA_IMATRIX_CACHE/target-gpu"
case "$(uname -m)" in
x86_64) flags="-C target-cpu=x86-64-v3" ;;
*) flags="" ;;
esac
# The program finds the libraries beside itself.
flags="$flags -C link-arg=-Wl,-rpath,\$ORIGIN"

say "building (minutes, the first time)"
(cd "$root" && RUSTFLAGS="$flags" GGML_RPC=ON cargo build --release --features dynamic-backends --bin llama-imatrix) >&2
(cd "$root" && RUSTFLAGS="$flags" cargo build --release --no-default-features --example make-model) >&2

# What the newest build script of llama-cpp-sys-2 has left.
out=$(find "$CARGO_TARGET_DIR/release/build" -maxdepth 2 -path '*llama-cpp-sys-2-*/out' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
[ -d "$out/backends" ] || {
    say "there are no backends in '$out'"
    exit 1
}
crate=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$out/build/CMakeCache.txt")

# llama.cpp's tools, with the same kind of backends. ggml's backend interface is the same in both, so one CUDA backend serves
# both programs: the comparison is between what they do with it.
"$root/scripts/upstream.sh" >/dev/null
tools=$(find "$LLAMA_IMATRIX_CACHE/upstream" -maxdepth 1 -name 'xllamacpp-*' -type d | sort | tail -n 1)/thirdparty/llama.cpp
interface() { cat "$1/ggml/include/ggml.h" "$1/ggml/src/ggml-impl.h" "$1/ggml/src/ggml-backend-impl.h"; }
[ "$(interface "$crate" | sha256sum)" = "$(interface "$tools" | sha256sum)" ] || {
    say "the two versions of ggml have different interfaces: one CUDA backend cannot serve both"
    exit 1
}
tools_build="$LLAMA_IMATRIX_CACHE/upstream/build-gpu"
cmake -S "$tools" -B "$tools_build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
    -DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF >&2
cmake --build "$tools_build" --target llama-imatrix llama-bench ggml-cpu >&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pack="$work/imatrix-gpu"
mkdir -p "$pack/bin"
cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$CARGO_TARGET_DIR/release/examples/make-model" "$pack/bin/"
for folder in "$out/lib" "$out/lib64" "$out/backends"; do
    [ ! -d "$folder" ] || find "$folder" -name '*.so*' -exec cp -P {} "$pack/bin/" \;
done
# In a separate folder, since both programs' libraries have the same names.
mkdir -p "$pack/upstream/lib"
cp "$tools_build/bin/llama-imatrix" "$tools_build/bin/llama-bench" "$pack/upstream/lib/"
find "$tools_build/bin" -name '*.so*' -exec cp -P {} "$pack/upstream/lib/" \;
# System libraries that llama.cpp's tools and both programs need, and that the machine may lack.
for library in libgomp.so.1 libssl.so.3 libcrypto.so.3; do
    file_of=$(ldconfig -p | sed -n "s/.*$library .*=> //p" | head -n 1)
    [ -z "$file_of" ] || cp "$file_of" "$pack/upstream/lib/"
done
[ ! -e "$pack/upstream/lib/libgomp.so.1" ] || cp "$pack/upstream/lib/libgomp.so.1" "$pack/bin/"
for tool in llama-imatrix llama-bench; do
    # shellcheck disable=SC2016 # the written script expands these
    printf '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nLD_LIBRARY_PATH=$here/lib exec "$here/lib/%s" "$@"\n' "$tool" >"$pack/upstream/$tool"
    chmod +x "$pack/upstream/$tool"
done
find "$pack/bin" "$pack/upstream/lib" -type f -exec strip --strip-unneeded {} +
# ggml alone, with the one backend.
mkdir -p "$pack/backend"
cp -R "$crate/ggml" "$pack/backend/"
printf 'cmake_minimum_required(VERSION 3.18)\nproject(backend C CXX)\nadd_subdirectory(ggml)\n' >"$pack/backend/CMakeLists.txt"
cp "$here/run.sh" "$here/measure.py" "$root/scripts/bench_common.py" "$root/scripts/imatrix_diff.py" "$pack/"
cp "$root/assets/quickstart/calibration.txt" "$pack/text.txt"

say "compressing"
tar -C "$work" -cf - imatrix-gpu | xz -T0 -6 >"$file.part"
mv "$file.part" "$file"
size=$(stat -c %s "$file")
say "$file: $((size / 1000000)) MB"
[ "$size" -lt $((64 << 20)) ] || {
    say "more than 64 MiB"
    exit 1
}
