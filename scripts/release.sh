#!/usr/bin/env bash
# Builds and packs a program that runs on other machines with this system and CPU architecture. llama.cpp is packed as
# libraries next to it, with kernels for each generation of CPUs. The program loads the best ones when it starts.
#
#   scripts/release.sh [DIR]
#
# Tests the packed program in a separate folder on the bundled model, then writes
# DIR/llama-imatrix-VERSION-TARGET.tar.gz, its .sha256 and the wheel for pip (DIR: dist). Compiles llama.cpp several times: a
# quarter of an hour.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

die() {
    echo "release: $*" >&2
    exit 1
}

case "${1:-}" in
-h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
-*) die "unknown argument '$1'" ;;
esac
dist=${1:-dist}
mkdir -p "$dist"
dist=$(cd "$dist" && pwd)

"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
llama_imatrix_mend_amx # one of ggml's variants uses AMX, whatever this machine has
cd "$root"
# Apart from builds for this machine, whose libraries have the same names.
export CARGO_TARGET_DIR=${RELEASE_TARGET_DIR:-$LLAMA_IMATRIX_CACHE/target-release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=$(rustc -vV | sed -n 's/^host: //p')
case "$target" in
x86_64-*) export RUSTFLAGS="-C target-cpu=x86-64-v2" ;;
*) export RUSTFLAGS="-C target-cpu=generic" ;; # takes the place of .cargo/config.toml's `native`
esac

features=llama,cli,download,dynamic-backends
# Our kernels compute on ggml's OpenMP team. Its library, libgomp, is not on every machine: it is packed too.
if [ "$(uname -s)" = Linux ]; then features=$features,openmp; fi
flags=(--no-default-features --features "$features")
cargo build --release "${flags[@]}"
name=llama-imatrix-$version-$target
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/$name"
cp "$CARGO_TARGET_DIR/release/llama-imatrix" "$scratch/$name/"
built=""
for out in "$CARGO_TARGET_DIR"/release/build/llama-cpp-sys-2-*/out; do
    # The newest, where there are several.
    if [ -d "$out/backends" ] && { [ -z "$built" ] || [ "$out" -nt "$built" ]; }; then built=$out; fi
done
[ -n "$built" ] || die "no variants of ggml's kernels in $CARGO_TARGET_DIR/release/build"
# Links stay links: a library is there once, under several names.
find "$built/lib" "$built/lib64" "$built/backends" -maxdepth 1 \( -name '*.so' -o -name '*.so.*' -o -name '*.dylib' \) \
    -exec cp -P {} "$scratch/$name/" \; 2>/dev/null || true
[ -n "$(find "$scratch/$name" -name 'libggml-cpu*')" ] || die "no variant of libggml-cpu in $built"
cp README.md CHANGELOG.md LICENSE "$scratch/$name/"
cp -R docs assets/man assets/completions "$scratch/$name/"
if [ "$(uname -s)" = Linux ]; then
    gomp=$(ldd "$scratch/$name/llama-imatrix" | sed -n 's/.*libgomp.so.1 => \([^ ]*\).*/\1/p')
    [ -n "$gomp" ] || die "the program does not need libgomp.so.1: built without OpenMP"
    cp -L "$gomp" "$scratch/$name/libgomp.so.1"
    strip --strip-unneeded "$scratch/$name/llama-imatrix" "$scratch/$name"/*.so* 2>/dev/null || true
fi

tar -C "$scratch" -czf "$dist/$name.tar.gz" "$name"
checksum() { if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }
(cd "$dist" && checksum "$name.tar.gz" >"$name.tar.gz.sha256")

"$here/wheel.sh" "$dist" "$scratch/$name" "${flags[@]}"

# As on another machine: nothing of the build folders, nothing of this environment.
mkdir "$scratch/elsewhere"
tar -C "$scratch/elsewhere" -xzf "$dist/$name.tar.gz"
program=$scratch/elsewhere/$name/llama-imatrix
mv "$CARGO_TARGET_DIR" "$CARGO_TARGET_DIR.hidden"
trap 'mv "$CARGO_TARGET_DIR.hidden" "$CARGO_TARGET_DIR"; rm -rf "$scratch"' EXIT
head -c 20000 assets/quickstart/calibration.txt >"$scratch/text"
env -i HOME="$scratch" PATH=/usr/bin:/bin "$program" --version
env -i HOME="$scratch" PATH=/usr/bin:/bin "$program" -m assets/quickstart/quickstart.gguf -f "$scratch/text" -c 256 -v \
    -o "$scratch/imatrix.gguf" >"$scratch/out" 2>"$scratch/log" || die "the packed program failed: $(tail -n 5 "$scratch/log")"
grep -o 'Final estimate.*' "$scratch/out"
grep -m 1 'system_info' "$scratch/log" || true
case "$target" in
x86_64-*-linux-gnu)
    case "$(ldd "$program")" in
    *"libgomp.so.1 => $scratch/elsewhere/"*) ;;
    *) die "the program does not find the libgomp.so.1 beside it" ;;
    esac
    if grep -q avx2 /proc/cpuinfo; then
        grep -m 1 'on the CPU: .* AVX' "$scratch/log" || die "the packed program has no matrix products"
    fi
    ;;
esac
ls -l "$dist/$name.tar.gz"
cat "$dist/$name.tar.gz.sha256"
