#!/usr/bin/env bash
# Packs what scripts/gpu/run.sh needs on a machine with CUDA and without Rust or network: our program with backends that are
# loaded when it starts, the sources of the llama.cpp that it is built with (for the CUDA backend) and of llama.cpp's tools,
# and what makes models and a text.
#
#   scripts/gpu/pack.sh [FILE]        imatrix-gpu.tar.xz unless named; some 30 MB
#
# There: tar -xf imatrix-gpu.tar.xz && imatrix-gpu/run.sh
#
# The build has a folder of its own, ~/.cache/llama-imatrix/target-gpu: llama.cpp is compiled once more, as shared libraries
# and for several kinds of CPU, ten minutes on two cores. The program runs on any x86-64 that has AVX2.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
file=${1:-imatrix-gpu.tar.xz}
case "$file" in -*)
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
file=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")

say() { printf 'pack: %s\n' "$*" >&2; }

"$root/scripts/setup.sh" --upstream
# shellcheck source=scripts/env.sh
. "$root/scripts/env.sh"
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
tools=$(find "$LLAMA_IMATRIX_CACHE/upstream" -maxdepth 1 -name 'xllamacpp-*' -type d | sort | tail -n 1)/thirdparty/llama.cpp
[ -f "$tools/CMakeLists.txt" ] || {
    "$root/scripts/upstream.sh" >/dev/null
    tools=$(find "$LLAMA_IMATRIX_CACHE/upstream" -maxdepth 1 -name 'xllamacpp-*' -type d | sort | tail -n 1)/thirdparty/llama.cpp
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pack="$work/imatrix-gpu"
mkdir -p "$pack/bin"
cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$CARGO_TARGET_DIR/release/examples/make-model" "$pack/bin/"
for folder in "$out/lib" "$out/lib64" "$out/backends"; do
    [ ! -d "$folder" ] || find "$folder" -name '*.so*' -exec cp -P {} "$pack/bin/" \;
done
find "$pack/bin" -type f -exec strip --strip-unneeded {} +
# Sources without what no build here reads.
sources() {
    mkdir -p "$pack/$2"
    tar -C "$1" --exclude=.git --exclude=./docs --exclude=./media --exclude=./models --exclude=./tests --exclude=./gguf-py \
        --exclude=./tools/server/webui --exclude=./tools/server/public --exclude=./tools/ui --exclude='*.gguf' -cf - . |
        tar -C "$pack/$2" -xf -
}
sources "$crate" llama.cpp
sources "$tools" upstream
# Tests are listed by the build files even where they are not built.
mkdir -p "$pack/upstream/tests" "$pack/llama.cpp/tests"
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
